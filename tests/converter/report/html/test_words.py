"""Numbers and sentences."""

import dataclasses

import pytest

from converter.report.document import ThroughputSection
from converter.report.html import formats
from converter.report.html.findings import flat, percentiles, speeds
from tests.converter.report.html.reports import full_report, timing


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"), (0, "0"), (1288.96, "1,289"), (91, "91.0"), (12.345, "12.3"), (-0.5, "-0.500"),
        (0.00123, "0.00123"), (0.0001, "0.000100"), (1.444e-5, "1.44e-05"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert formats.number(value) == text


def test_units() -> None:
    assert formats.percent(91) == "91.00\xa0%"
    assert formats.change(0.0001) == "0.00 points"
    assert formats.change(-0.24) == "\N{MINUS SIGN}0.24 points"
    assert formats.change(0.2) == "+0.20 points"
    assert formats.times(1.639) == "1.64\xa0\N{MULTIPLICATION SIGN}"
    assert [formats.seconds(value) for value in (0.0471, 73.84, 1234.5)] == ["0.05 s", "73.8 s", "1,234.5 s"]
    assert [formats.size(value) for value in (36_216, 1_085_866)] == ["36.2 kB", "1.09 MB"]
    assert [formats.words(count, "class", "classes") for count in (1, 1000)] == ["1 class", "1,000 classes"]
    for unit in (
        formats.percent,
        formats.points,
        formats.change,
        formats.times,
        formats.seconds,
        formats.size,
    ):
        assert unit(None) == formats.UNKNOWN


def test_a_sentence_begins_with_a_capital_and_names_stay() -> None:
    capitals = [formats.capital(text) for text in ("top-1", "same boxes (IoU 0.5)", "mIoU of masks", "")]
    assert capitals == ["Top-1", "Same boxes (IoU 0.5)", "mIoU of masks", ""]


def test_flags_are_set_as_code() -> None:
    text = formats.flags("more --gan-steps, --calib-data <x> a--b ---")
    assert text == "more <code>--gan-steps</code>, <code>--calib-data</code> &lt;x&gt; a--b ---"


def test_speeds_are_compared_with_fp32_at_the_same_batch() -> None:
    assert [speed.ratio for speed in speeds(full_report())] == pytest.approx(
        [1, 1100.25 / 512.5, 1612.75 / 512.5, 1, 3415 / 1490.5, 5320.5 / 1490.5]
    )
    alone = dataclasses.replace(full_report(), throughput=[ThroughputSection(**timing("int8", 1, 5.0))])
    assert [speed.ratio for speed in speeds(alone)] == [None]
    assert percentiles(alone) == ["median", "p90", "p99"]


def test_nested_options_become_lines() -> None:
    options = {"a": {"b": 1, "c": None, "d": {"e": True}}, "f": [3, 32], "g": 0}
    assert list(flat(options)) == [
        ("a.b", "1"),
        ("a.c", "not set"),
        ("a.d.e", "yes"),
        ("f", "3, 32"),
        ("g", "0"),
    ]
