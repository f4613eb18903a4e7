"""Numbers and sentences."""

import dataclasses
from typing import Any

import pytest

from converter.report.document import AccuracySection, ThroughputSection
from converter.report.html import formats
from converter.report.html.findings import flat, headline, percentiles, speeds
from tests.converter.report.html.reports import bare_report, full_report, timing


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


def test_flags_are_set_as_code() -> None:
    text = formats.flags("more --gan-steps, --calib-data <x> a--b ---")
    assert text == "more <code>--gan-steps</code>, <code>--calib-data</code> &lt;x&gt; a--b ---"


def test_the_headline_of_everything() -> None:
    assert headline(full_report()) == (
        "resnet18 was converted to INT8 for TensorRT, calibrated without data and fine-tuned, 3 layers kept in float: "
        "top-1 on 5,000 images is 69.52\xa0%, 0.24 points less than FP32; it runs at 3.15 times the speed of FP32 at "
        "batch 1; 2 warnings below to read before it is used."
    )


def test_the_headline_of_almost_nothing() -> None:
    assert headline(bare_report()) == (
        "tiny was converted to INT8 for ONNX Runtime, with the ranges of a cache: how well it agrees with FP32 was not "
        "measured."
    )


def headline_with(**fields: Any) -> str:
    return headline(dataclasses.replace(full_report(), **fields))


def test_the_headline_takes_the_best_that_is_known() -> None:
    predicted = headline_with(accuracy=None)
    assert (
        "predicted to lose 0.372 points of top-1 (between 0.128 and 0.694 with 95 % confidence)" in predicted
    )
    assert "was not measured" in predicted
    agreeing = headline_with(accuracy=None, prediction=None)
    assert (
        "its agreement with FP32 (same class) is 97.46\xa0% on 512 samples; its accuracy was not measured"
        in agreeing
    )


@pytest.mark.parametrize(
    ("int8", "words"), [(69.76, "the same as FP32"), (70.0, "0.24 points more than FP32")]
)
def test_the_headline_says_the_same_and_more(int8: float, words: str) -> None:
    accuracy = AccuracySection(
        5000, 69.76, "ONNX Runtime", int8, 96.14, metric="top-1", fp32=69.76, int8=int8
    )
    assert words in headline_with(accuracy=accuracy)


def test_the_headline_says_where_a_plan_was_not_measured() -> None:
    measured = [
        ThroughputSection(**timing(precision, 1, speed) | {"engine": "onnxruntime"})
        for precision, speed in (("fp32", 4.0), ("int8", 3.0))
    ]
    text = headline_with(throughput=measured, artifacts={"model.tensorrt-rtx.plan": "x"})
    assert "for TensorRT for RTX" in text
    assert "0.75 times the speed of FP32 in ONNX Runtime at batch 1" in text


def test_the_headline_says_that_the_target_was_missed() -> None:
    assert "INT8 loses 0.24 points of top-1, more than --max-drop 0.1" in headline_with(
        options={"max_drop": 0.1}
    )


def test_real_images_are_not_called_no_data() -> None:
    images = dataclasses.replace(full_report().calibration, source="images")
    assert "calibrated with real images" in headline_with(calibration=images, synthesis=None)


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
