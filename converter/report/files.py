"""What each file of a conversion is, for the terminal and for the page."""

from collections.abc import Iterator

from converter.report.document import PAGE, REPORT, Report
from converter.workspace import (
    ANSWERS,
    BUILD_LOG,
    CPU_ENGINE,
    FP32_ONNX,
    IMPLICIT_CACHE,
    INT8_ONNX,
    RTX_ENGINE,
    SAMPLES,
    TENSORRT_ENGINE,
)

FILES = {
    TENSORRT_ENGINE: "the engine for TensorRT on this kind of GPU",
    RTX_ENGINE: "the engine for TensorRT for RTX",
    INT8_ONNX: "INT8 with Q/DQ pairs: TensorRT 10 and 11 build an engine from it",
    CPU_ENGINE: "the engine for ONNX Runtime on a CPU",
    FP32_ONNX: "the same network before quantization, batch norms folded",
    PAGE: "the report, to open in a browser",
    REPORT: "the report, for programs",
    SAMPLES: "a picture of some samples",
    ANSWERS: "what FP32 and INT8 find in a few inputs",
    "generator.pt": "the generator, for --generator",
    "calibration.json": "the range of each activation",
    "calibration.cache": "the same ranges in TensorRT's format",
    IMPLICIT_CACHE: "the ranges that TensorRT's own calibrator found",
    "calibration.tensorrt.json": "the model that those ranges are for",
    BUILD_LOG: "the messages of TensorRT's builder",
}
"""File -> what it is, the most important first."""


def file_rows(report: Report) -> Iterator[tuple[str, str]]:
    """The files of the conversion and what each is, the most important first."""
    for name, what in FILES.items():
        if name in report.artifacts:
            yield name, what
    yield from ((name, "") for name in report.artifacts if name not in FILES)
