"""Which engine is taken."""

from typing import NamedTuple

from engines import gpu
from engines.errors import EngineUnavailableError
from engines.options import ENGINES
from engines.tensorrt import library, rtx


class EngineChoice(NamedTuple):
    """The engine that is taken and, in a few words, why."""

    name: str
    reason: str


def choose_engine(name: str = "auto") -> EngineChoice:
    """The engine called ``name``; ``auto`` takes TensorRT where it imports and a GPU answers, else ONNX Runtime.

    Raises EngineUnavailableError for an engine that is not available here; there is no fallback.
    """
    if name == "auto":
        return _best_engine()
    if name == "onnxruntime":
        return EngineChoice(name, "asked for")
    if name == "tensorrt":
        return EngineChoice(name, f"asked for; {_tensorrt()}")
    if name == "tensorrt-rtx":
        version = rtx.load_tensorrt_rtx().__version__
        return EngineChoice(name, f"asked for; TensorRT for RTX {version}")
    raise EngineUnavailableError(f"expected an engine from {', '.join(ENGINES)}, got {name!r}")


def _best_engine() -> EngineChoice:
    try:
        return EngineChoice("tensorrt", f"auto: {_tensorrt()}")
    except EngineUnavailableError as error:
        # How to fix it is for those who ask for TensorRT by name.
        reason = str(error).partition(";")[0]
        return EngineChoice("onnxruntime", f"auto: {reason}, ONNX Runtime runs on any CPU")


def _tensorrt() -> str:
    """Version and GPUs in words. Raises EngineUnavailableError where TensorRT or a GPU is missing."""
    version = library.load_tensorrt().__version__
    number, trouble = gpu.gpus()
    if number == 0:
        raise EngineUnavailableError(
            f"TensorRT {version} builds and runs on an NVIDIA GPU and none answers: {trouble}; take --engine "
            "onnxruntime, or build for RTX GPUs ahead of time by --engine tensorrt-rtx"
        )
    return f"TensorRT {version}, {number} GPU{'s' if number > 1 else ''}"
