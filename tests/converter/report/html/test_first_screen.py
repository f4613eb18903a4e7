"""The sentence and the three numbers that a report begins with, for each task and for whatever was not measured."""

import dataclasses
from typing import Any

import pytest

from converter.report.document import (
    AccuracySection,
    AgreementSection,
    CPUInt8Section,
    Report,
    ThroughputSection,
)
from converter.report.html.first_screen import NO_GPU, NOT_MEASURED, headline, key_numbers, missed
from tests.converter.report.html.reports import bare_report, full_report, timing

BOXES = "same boxes (IoU 0.5)"


def with_fields(**fields: Any) -> Report:
    return dataclasses.replace(full_report(), **fields)


def detector(**fields: Any) -> Report:
    """A detector without --val."""
    full = full_report()
    return with_fields(
        model=dataclasses.replace(full.model, task="boxes", classes=None),
        accuracy=None,
        prediction=None,
        agreement=AgreementSection(None, 512, BOXES, 96.25, 0.4),
        **fields,
    )


def texts(report: Report) -> list[tuple[str, str, str]]:
    return [(number.title, number.value, number.note) for number in key_numbers(report)]


def test_a_report_of_everything() -> None:
    assert headline(full_report()) == (
        "INT8 loses 0.24 points of top-1 against FP32 and is 3.96 times smaller; it was built for TensorRT, calibrated "
        "without data and fine-tuned, with 3 layers kept in float."
    )
    assert texts(full_report()) == [
        (
            "Accuracy (top-1)",
            "69.52\xa0%",
            "FP32: 69.76\xa0% (\N{MINUS SIGN}0.24 points), on 5,000 labelled images.",
        ),
        ("Size", "3.96\xa0\N{MULTIPLICATION SIGN} smaller", "11.8 MB instead of 46.8 MB, as ONNX files."),
        (
            "Speed against FP32",
            "3.15\xa0\N{MULTIPLICATION SIGN}",
            "1,613 instead of 512 images/s in TensorRT on NVIDIA L4, batch 1. ",
        ),
    ]


def test_a_report_of_almost_nothing() -> None:
    assert headline(bare_report()) == (
        "INT8 was not compared with FP32; it was built for ONNX Runtime, with the ranges of a cache."
    )
    assert texts(bare_report()) == [
        (
            "Agreement with FP32",
            NOT_MEASURED,
            "Accuracy was not measured: give labelled images with --val.",
        ),
        ("Size", "not known", "The report has no size of both files."),
        ("Speed against FP32", NOT_MEASURED, NO_GPU),
    ]


def test_a_prediction_is_taken_where_accuracy_was_not_measured() -> None:
    report = with_fields(accuracy=None)
    assert headline(report).startswith("INT8 is predicted to lose 0.372 points of top-1 against FP32 and is")
    title, value, note = texts(report)[0]
    assert (title, value) == ("Predicted loss of top-1", "0.372 points")
    assert note == (
        "Between 0.128 and 0.694 with 95\xa0% confidence. Accuracy was not measured: give labelled images with --val."
    )


def test_agreement_is_taken_where_nothing_was_predicted() -> None:
    report = with_fields(accuracy=None, prediction=None)
    assert headline(report).startswith("INT8 agrees with FP32 by 97.46\xa0% on 512 fresh samples and is")
    title, value, note = texts(report)[0]
    assert (title, value) == ("Agreement with FP32", "97.46\xa0%")
    assert note.startswith("Same class, on 512 fresh samples. Accuracy was not measured")


def test_agreement_is_in_the_words_of_the_task() -> None:
    note = texts(detector())[0][2]
    assert note.startswith("Same boxes (IoU 0.5), on 512 fresh samples.")
    assert note.endswith("Accuracy was not measured: give images with their boxes with --val.")
    mask = dataclasses.replace(
        detector(), accuracy=AccuracySection(9, None, "", None, 90.0, "mIoU", 1.0, "mIoU", 61.5, 60.25)
    )
    assert headline(mask).startswith("INT8 loses 1.25 points of mIoU against FP32")
    assert texts(mask)[0][:2] == ("Accuracy (mIoU)", "60.25\xa0%")


def test_a_task_without_a_metric_asks_for_no_labels() -> None:
    report = detector()
    report = dataclasses.replace(report, model=dataclasses.replace(report.model, task="any"))
    assert "--val" not in texts(report)[0][2]


def test_real_images_without_labels_go_before_samples() -> None:
    seen = AccuracySection(20, None, "ONNX Runtime on the CPU", None, 63.16, BOXES, 4.0)
    report = dataclasses.replace(detector(), accuracy=seen)
    assert headline(report).startswith("INT8 agrees with FP32 by 63.16\xa0% on 20 real images")
    assert texts(report)[0][1] == "63.16\xa0%"


def test_an_agreement_of_nothing_is_not_measured() -> None:
    report = dataclasses.replace(detector(), agreement=AgreementSection(None, 512, BOXES))
    assert headline(report).startswith(
        "INT8 was not compared with FP32, which finds nothing in 512 fresh samples"
    )
    assert texts(report)[0][1] == NOT_MEASURED
    assert texts(report)[0][2].startswith("FP32 finds nothing in 512 fresh samples.")


@pytest.mark.parametrize(
    ("int8", "words", "note"),
    [
        (69.76, "INT8 is as accurate as FP32 and", "The same as FP32, on 5,000 labelled images."),
        (70.0, "INT8 gains 0.24 points of top-1 against FP32", "FP32: 69.76\xa0% (+0.24 points), on"),
    ],
)
def test_the_same_and_more(int8: float, words: str, note: str) -> None:
    accuracy = AccuracySection(
        5000, 69.76, "ONNX Runtime", int8, 96.14, metric="top-1", fp32=69.76, int8=int8
    )
    report = with_fields(accuracy=accuracy)
    assert headline(report).startswith(words)
    assert texts(report)[0][2].startswith(note)


def timed(engine: str, fp32: float, int8: float) -> list[ThroughputSection]:
    speeds = (("fp32", fp32), ("int8", int8))
    return [
        ThroughputSection(**timing(precision, 1, speed) | {"engine": engine}) for precision, speed in speeds
    ]


def test_a_speed_of_the_cpu_is_not_that_of_a_gpu() -> None:
    report = with_fields(
        throughput=timed("onnxruntime", 4.0, 3.0), artifacts={"model.tensorrt-rtx.plan": "x"}
    )
    assert "built for TensorRT for RTX" in headline(report)
    assert texts(report)[2][1:] == (
        "0.75\xa0\N{MULTIPLICATION SIGN}",
        f"3.00 instead of 4.00 images/s in ONNX Runtime on the CPU, batch 1. {NO_GPU}",
    )


def test_layers_of_the_cpu_engine_in_float_are_said() -> None:
    kept = CPUInt8Section("fastest", 12, ["conv2d", "conv2d_1"], {"1": 1.2}, {"1": 0.8}, 2.0)
    on_cpu, on_gpu = timed("onnxruntime", 4.0, 3.0), timed("tensorrt", 100.0, 250.0)
    said = ", 2 of 12 layers in float, which is faster there."
    assert said in texts(with_fields(throughput=on_cpu, cpu_int8=kept))[2][2]
    assert said not in texts(with_fields(throughput=on_cpu + on_gpu, cpu_int8=kept))[2][2]


def test_the_speed_is_that_of_the_engine_that_was_built() -> None:
    report = with_fields(throughput=timed("onnxruntime", 4.0, 3.0) + timed("tensorrt", 100.0, 250.0))
    assert texts(report)[2][1] == "2.50\xa0\N{MULTIPLICATION SIGN}"
    named = dataclasses.replace(report.device, measured_on={"name": "NVIDIA H100"})
    assert "in TensorRT on NVIDIA H100, batch 1" in texts(dataclasses.replace(report, device=named))[2][2]


def test_a_missed_target_is_said() -> None:
    assert missed(full_report()) == ""
    said = missed(with_fields(options={"max_drop": 0.1}))
    assert said.startswith("INT8 loses 0.24 points of top-1, more than --max-drop 0.1")


def test_real_images_are_not_called_no_data() -> None:
    images = dataclasses.replace(full_report().calibration, source="images")
    assert "calibrated with real images" in headline(with_fields(calibration=images, synthesis=None))
