"""Tables as text: plain, aligned, and whole where they are too wide."""

from rich.text import Text

from zscgan_common.tables import columns, figures, indented, labelled, text_from, words


def test_columns_are_aligned_without_lines_around_them() -> None:
    body = columns(words("engine", 8), figures("MB"))
    body.add_row("a[b]", "1.25")
    body.add_row("c", "10.50")
    assert text_from(body).splitlines() == ["engine       MB", "a[b]       1.25", "c         10.50"]


def test_what_is_too_long_is_folded_and_nothing_is_lost() -> None:
    name, number = "x" * 100, "1234567890.5"
    body = columns(words("name"), figures("number"))
    body.add_row(name, number)
    for width in (40, 80):
        lines = text_from(body, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert lines[1].endswith(number)
        assert "".join(lines[1:]).count("x") == 100


def test_texts_wrap_at_their_place() -> None:
    assert text_from(labelled([("CPU", "one two three"), ("GPU", "none")]), width=13).splitlines() == [
        "CPU  one two",
        "     three",
        "GPU  none",
    ]
    assert text_from(indented('-> pip install "a[b]"', 4), width=20).splitlines() == [
        "    -> pip install",
        '    "a[b]"',
    ]


def test_colours_are_only_where_they_are_asked_for() -> None:
    body = columns(words("works"))
    body.add_row(Text("yes", "green"))
    assert text_from(body) == "works\nyes"
    assert "\x1b[32myes" in text_from(body, styled=True)
