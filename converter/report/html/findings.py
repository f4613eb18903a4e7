"""What the figures of a report come to: the result in one sentence, and the ratios between FP32 and INT8."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from converter.report.document import Report, ThroughputSection
from converter.report.html.formats import number, percent, words
from converter.report.summary import metric_of, missed_gate
from converter.workspace import (
    ANSWERS,
    BUILD_LOG,
    CPU_ENGINE,
    ENGINE_FILES,
    FP32_ONNX,
    IMPLICIT_CACHE,
    INT8_ONNX,
    RTX_ENGINE,
    SAMPLES,
    TENSORRT_ENGINE,
)
from engines.options import ENGINE_TITLES

FILES = {
    INT8_ONNX: "INT8 with Q/DQ pairs, for TensorRT 10 and 11",
    FP32_ONNX: "the same network before quantization, batch norms folded",
    CPU_ENGINE: "the engine for ONNX Runtime on a CPU",
    TENSORRT_ENGINE: "the engine for TensorRT",
    RTX_ENGINE: "the engine for TensorRT for RTX",
    BUILD_LOG: "the messages of TensorRT's builder",
    IMPLICIT_CACHE: "the ranges that TensorRT's own calibrator found",
    "calibration.tensorrt.json": "the model that those ranges are for",
    "calibration.json": "the range of each activation",
    "calibration.cache": "the same in TensorRT's format",
    "generator.pt": "the generator, for --generator",
    SAMPLES: "a look at the samples",
    ANSWERS: "what FP32 and INT8 find in a few inputs",
    "report.json": "all figures of this page, for programs",
    "report.html": "this page",
}


CALIBRATED_ON = {"images": "real image", "procedural": "procedural image", "zscgan": "generated sample"}
"""Source of inputs -> one of them."""
JUDGED = {
    "val": "measured on the labelled images of --val",
    "prediction": "predicted without data",
    "agreement": "measured by the agreement with FP32",
}
"""Judge of mixed precision -> how a loss is known."""
WANTED = {
    "classes": "labelled images",
    "labels": "labelled images",
    "boxes": "images with their boxes",
    "mask": "images with their masks",
}
"""Task -> what accuracy is measured on."""


def headline(report: Report) -> str:
    """The result in one sentence: what was built, what it costs in accuracy, what it gains in speed, and doubts."""
    what = f"{report.model.name} was converted to INT8 for {built_engine(report)}, {how(report)}"
    facts = [fact for fact in (accuracy(report), speed(report)) if fact]
    doubts = [missed_gate(report, report.options.get("max_drop"))]
    if report.warnings:
        doubts.append(f"{words(len(report.warnings), 'warning')} below to read before it is used")
    return f"{what}: {'; '.join([*facts, *filter(None, doubts)])}."


def built_engine(report: Report) -> str:
    """The engine that the conversion was for."""
    made = [engine for engine, file in ENGINE_FILES.items() if file in report.artifacts]
    return ENGINE_TITLES[made[-1] if made else "onnxruntime"]


def how(report: Report) -> str:
    """Where its ranges and its weights come from."""
    source = report.calibration.source
    made = {"images": "calibrated with real images", "procedural": "calibrated on procedural images"}
    if report.synthesis is None and source != "images":
        text = "with the ranges of a cache"
    else:
        text = made.get(source, "calibrated without data")
    if report.qat is not None and report.qat.kept == "qat":
        text += " and fine-tuned"
    kept = kept_layers(report)
    return f"{text}, {words(kept, 'layer')} kept in float" if kept else text


def kept_layers(report: Report) -> int:
    """How many layers mixed precision left in float."""
    if report.mixed_precision is None:
        return 0
    return sum(len(kept.layers) for kept in report.mixed_precision.kept_float)


def accuracy(report: Report) -> str:
    """The best that is known of its accuracy: measured, predicted, or how often it says what FP32 says."""
    measured = report.accuracy
    if measured is not None and measured.int8 is not None and measured.fp32 is not None:
        return (
            f"{measured.metric} on {words(measured.images, 'image')} is {percent(measured.int8)}, "
            f"{against(measured.int8 - measured.fp32)} FP32"
        )
    if (guess := report.prediction) is not None:
        return (
            f"it is predicted to lose {number(guess.drop)} points of top-1 (between {number(guess.drop_low)} "
            f"and {number(guess.drop_high)} with {guess.confidence:g} % confidence), which was not measured"
        )
    if measured is not None:
        return f"{agreement(measured.measure, measured.agreement)} on {words(measured.images, 'image')} without labels"
    if (found := report.agreement) is not None:
        said = agreement(found.measure, found.percent)
        return f"{said} on {found.samples:,} samples; its accuracy was not measured"
    return "how well it agrees with FP32 was not measured"


def agreement(measure: str, value: float | None) -> str:
    """How much INT8 says of what FP32 says."""
    found = "was not measured, as FP32 finds nothing" if value is None else f"is {percent(value)}"
    return f"its agreement with FP32 ({measure}) {found}"


def measure(report: Report) -> str:
    """What agreement with FP32 counts."""
    found = report.agreement or report.accuracy
    return found.measure if found is not None else "same answers"


def lost(report: Report) -> str:
    """What ``--max-drop`` limits the loss of."""
    assert report.mixed_precision is not None
    if report.mixed_precision.by == "agreement":
        return f"agreement with FP32 ({measure(report)})"
    return metric_of(report)


def against(change: float) -> str:
    """A change in percent points in words that go before what it is a change from."""
    if round(change, 2) == 0:
        return "the same as"
    return f"{abs(change):.2f} points {'more' if change > 0 else 'less'} than"


def speed(report: Report) -> str:
    """INT8 beside FP32 at the smallest batch; empty where that was not measured."""
    for row in speeds(report):
        if row.figures.precision == "int8" and row.ratio is not None:
            engine = ENGINE_TITLES[row.figures.engine]
            where = "" if engine == built_engine(report) else f" in {engine}"
            batch = row.figures.batch
            return f"it runs at {row.ratio:.2f} times the speed of FP32{where} at batch {batch}"
    return ""


@dataclass(frozen=True)
class Speed:
    """One entry of ``throughput`` and its images per second over those of FP32, same engine and batch."""

    figures: ThroughputSection
    ratio: float | None


def speeds(report: Report) -> Iterator[Speed]:
    """The measurements in the report's order."""
    fp32 = {
        (entry.engine, entry.batch): entry.images_per_s
        for entry in report.throughput
        if entry.precision == "fp32"
    }
    for entry in report.throughput:
        base = fp32.get((entry.engine, entry.batch))
        yield Speed(entry, entry.images_per_s / base if base else None)


def percentiles(report: Report) -> list[str]:
    """The latencies that were measured, ``median`` first."""
    return list(dict.fromkeys(name for entry in report.throughput for name in entry.latency_ms))


def bytes_saved(report: Report) -> float | None:
    """How many times as large the FP32 ONNX is as the INT8 one."""
    fp32, int8 = (report.artifact_bytes.get(name) for name in (FP32_ONNX, INT8_ONNX))
    return fp32 / int8 if fp32 and int8 else None


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as lines: ``build.min_batch`` and ``1``; lists of plain values stay on one line."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from flat(entry, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    else:
        plain_words = {"None": "not set", "True": "yes", "False": "no"}
        yield name, plain_words.get(str(value), str(value))
