"""Charts, by the numbers in their SVG."""

import json
import re

import pytest

from converter.report.html.charts import (
    BARS,
    LEFT,
    MARKS,
    MOST_TICKS,
    PART,
    PLOT,
    ROW,
    TOP,
    Bar,
    Order,
    bars,
    line,
)

THREE = [
    Bar("a", 4.0, "four", "a is 4", (4.0, "a")),
    Bar("b", 1, "one", "b is 1", (1, "b")),
    Bar("c", None, "?", "c?"),
]


def attributes(svg: str, pattern: str) -> list[str]:
    return re.findall(pattern, svg)


def ticks(svg: str) -> list[str]:
    return re.findall(r'<text y="[\d.]+">([^<]*)</text>', svg)


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars("Title", THREE)
    assert attributes(svg, r'class="bar" x="\d+%" y="6" width="([\d.]+)%"') == [
        f"{BARS:.2f}",
        f"{BARS / 4:.2f}",
        "0.00",
    ]
    assert attributes(svg, r'transform="translate\(0 (\d+)\)"') == ["0", str(ROW), str(2 * ROW)]
    assert attributes(svg, r'tabindex="(-?\d)"') == ["0", "-1", "-1"]
    assert attributes(svg, r'listitem"[^>]*aria-label="([^"]*)"') == ["a is 4", "b is 1", "c?"]


@pytest.mark.parametrize("value", [0.0, None])
def test_bars_without_any_length(value: float | None) -> None:
    assert 'width="0.00%"' in bars("Title", [Bar("a", value, "-", "a")])


def test_orders_are_offered_with_their_direction_and_keys() -> None:
    svg = bars("Title", THREE, [Order("largest first", descending=True), Order("by name")])
    assert "<option data-descending>largest first</option><option>by name</option>" in svg
    keys = [json.loads(text.replace("&#34;", '"')) for text in attributes(svg, 'data-keys="([^"]*)"')]
    assert keys == [[4.0, "a"], [1, "b"], []]
    assert "<select" not in bars("Title", THREE)


def test_names_are_escaped() -> None:
    name = "<b>\"'&"
    for svg in (
        bars(name, [Bar(name, 1.0, name, name, (name,))], [Order(name)]),
        line(name, [(0, 1), (1, 2)], name),
    ):
        assert "<b>" not in svg
        assert "&lt;b&gt;&#34;&#39;&amp;" in svg


def test_a_line_goes_from_corner_to_corner() -> None:
    svg = line("Title", [(0, 1.0), (5, 3.0), (10, 2.0)], "step")
    assert 'points="0.0,100.00 500.0,0.00 1000.0,50.00"' in svg
    assert attributes(svg, r'cx="([\d.]+)%"') == [f"{LEFT:.2f}", f"{(LEFT + 100) / 2:.2f}", "100.00"]
    assert attributes(svg, r'cy="([\d.]+)"') == [f"{TOP + PLOT:.1f}", f"{TOP:.1f}", f"{TOP + PLOT / 2:.1f}"]
    assert attributes(svg, r'listitem"[^>]*aria-label="([^"]*)"') == [
        "step 0: 1.00",
        "step 5: 3.00",
        "step 10: 2.00",
    ]
    assert ">step 0<" in svg
    assert ">step 10<" in svg


def test_a_logarithmic_line_has_equal_steps_for_equal_ratios() -> None:
    svg = line("Title", [(0, 1.0), (1, 0.1), (2, 0.01)], "step", log=True)
    assert 'points="0.0,0.00 500.0,50.00 1000.0,100.00"' in svg


def test_zero_has_no_logarithm() -> None:
    assert 'points="0.0,0.00 1000.0,100.00"' in line("Title", [(0, 1.0), (1, 0.0)], "step", log=True)


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0.0, 1.0, False, ["0", "0.5", "1"]),
        (95.0, 96.7, False, ["95", "95.5", "96", "96.5"]),
        (0.011, 0.26, True, ["0.02", "0.05", "0.1", "0.2"]),
        (0.02, 6.9, True, ["0.1", "1"]),
        (1e-6, 1e3, True, ["1e-06", "0.0001", "0.01", "1", "100"]),
        (1.1, 1.3, True, ["1.1", "1.15", "1.2", "1.25", "1.3"]),
    ],
)
def test_ticks_are_round(low: float, high: float, log: bool, expected: list[str]) -> None:
    assert len(expected) <= MOST_TICKS
    assert ticks(line("Title", [(0, low), (1, high)], "step", log=log)) == expected


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_a_level_line(value: float, log: bool) -> None:
    assert 'points="0.0,50.00 1000.0,50.00"' in line("Title", [(0, value), (1, value)], "step", log=log)


def test_a_long_line_has_marks_that_can_be_told_apart() -> None:
    svg = line("Title", [(step, float(step)) for step in range(1000)], "step")
    assert MARKS / 2 < svg.count('class="mark"') <= MARKS
    assert svg.count(",") == 1000  # the line itself has all of them


def test_long_charts_are_of_parts_between_which_a_printed_page_can_end() -> None:
    rows = [Bar(f"layer{i}", float(i), str(i), f"layer{i}") for i in range(2 * PART + 1)]
    svg = bars("Title", rows)
    assert attributes(svg, r'class="bars" role="presentation" width="100%" height="(\d+)"') == [
        str(ROW * PART),
        str(ROW * PART),
        str(ROW),
    ]
    assert attributes(svg, r'tabindex="(-?\d)"') == ["0"] + ["-1"] * (2 * PART)
    assert attributes(svg, r"<text y=\"15\">(layer\d+)<") == [row.name for row in rows]


def test_of_a_long_name_the_end_is_shown_and_the_whole_is_said() -> None:
    name = "/backbone/stage2/stage2.0/branch_proj/branch_proj.0/Conv_output_0"
    svg = bars("Title", [Bar(name, 1.0, "1", f"{name}: 1")])
    (shown,) = attributes(svg, r"<text y=\"15\">([^<]*)<")
    assert shown == "\N{HORIZONTAL ELLIPSIS}branch_proj.0/Conv_output_0"
    assert f'aria-label="{name}: 1"' in svg
