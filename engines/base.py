"""What every engine offers, and which one is taken."""

from types import TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineUnavailableError
from engines.options import ENGINES

Logits = NDArray[np.float32]


@runtime_checkable
class Engine(Protocol):
    """A built network that runs; a context manager, since it holds threads or device memory.

    ``input_shape`` is (channels, height, width); ``precision`` is ``fp32``, ``fp16`` or ``int8``.
    """

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    def run(self, x: NDArray[Any]) -> Logits:
        """Logits (batch, classes) of normalised float32 images (batch, channels, height, width)."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> "Engine": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EngineChoice(NamedTuple):
    """The engine that is taken and, in a few words, why."""

    name: str
    reason: str


def choose_engine(name: str = "auto") -> EngineChoice:
    """The engine called ``name``; ``auto`` takes TensorRT where it imports and a GPU answers, else ONNX Runtime.

    Raises EngineUnavailableError for an engine that can't be had here: nothing else is taken in its place.
    """
    if name == "auto":
        return _best_engine()
    if name == "onnxruntime":
        return EngineChoice(name, "asked for")
    if name == "tensorrt":
        return EngineChoice(name, f"asked for; {_tensorrt()}")
    if name == "tensorrt-rtx":
        from engines.tensorrt.rtx import load_tensorrt_rtx

        version = load_tensorrt_rtx().__version__
        return EngineChoice(name, f"asked for; TensorRT for RTX {version}")
    raise EngineUnavailableError(f"expected an engine from {', '.join(ENGINES)}, got {name!r}")


def _best_engine() -> EngineChoice:
    try:
        return EngineChoice("tensorrt", f"auto: {_tensorrt()}")
    except EngineUnavailableError as error:
        # What mends it is for those who ask for TensorRT by name.
        reason = str(error).partition(";")[0]
        return EngineChoice("onnxruntime", f"auto: {reason}, ONNX Runtime runs on any CPU")


def _tensorrt() -> str:
    """Version and GPUs in words. Raises EngineUnavailableError where TensorRT or a GPU is missing."""
    from engines.gpu import gpus
    from engines.tensorrt.library import load_tensorrt

    version = load_tensorrt().__version__
    number, trouble = gpus()
    if number == 0:
        raise EngineUnavailableError(
            f"TensorRT {version} builds and runs on an NVIDIA GPU and none answers: {trouble}; take --engine "
            "onnxruntime, or build for RTX GPUs ahead of time by --engine tensorrt-rtx"
        )
    return f"TensorRT {version}, {number} GPU{'s' if number > 1 else ''}"
