"""What the figures of a report come to: names for what was done, and the ratios between FP32 and INT8."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from converter.report.document import Report, ThroughputSection
from converter.report.html.formats import words
from converter.report.summary import metric_of
from converter.workspace import ENGINE_FILES, FP32_ONNX, INT8_ONNX
from engines.options import ENGINE_TITLES

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


def built_engine(report: Report) -> str:
    """The engine that the conversion was for."""
    made = [engine for engine, file in ENGINE_FILES.items() if file in report.artifacts]
    return ENGINE_TITLES[made[-1] if made else "onnxruntime"]


def calibrated_on(report: Report) -> str:
    """The inputs that gave the ranges: how many, and of which kind."""
    found, made = report.calibration, report.synthesis
    count = found.samples or 0
    if (
        found.source == "zscgan"
        and report.options.get("calibration_cache")
        and not report.options.get("recalibrate")
    ):
        return words(count, "sample")  # the cache doesn't tell how many were procedural
    if made is None or found.source != "zscgan" or not made.procedural:
        return words(count, CALIBRATED_ON.get(found.source, "input"))
    generated = words(count - made.procedural, CALIBRATED_ON["zscgan"])
    return f"{generated} and {words(made.procedural, CALIBRATED_ON['procedural'])}"


def kept_layers(report: Report) -> int:
    """How many layers mixed precision left in float."""
    if report.mixed_precision is None:
        return 0
    return sum(len(kept.layers) for kept in report.mixed_precision.kept_float)


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
