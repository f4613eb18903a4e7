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
    """The engine called ``name``; ``auto`` takes ONNX Runtime, as this version does not build with TensorRT.

    Raises EngineUnavailableError for an engine that can't be had here: nothing else is taken in its place.
    """
    if name == "auto":
        return EngineChoice(
            "onnxruntime", "auto: this version builds no TensorRT engine, ONNX Runtime runs on any CPU"
        )
    if name == "onnxruntime":
        return EngineChoice(name, "asked for")
    if name == "tensorrt":
        raise EngineUnavailableError(
            "this version does not build TensorRT engines yet; take model.int8.onnx to TensorRT's own tool: "
            "trtexec --onnx=model.int8.onnx --stronglyTyped --saveEngine=model.plan"
        )
    if name == "tensorrt-rtx":
        from engines.tensorrt_rtx import load_tensorrt_rtx

        version = load_tensorrt_rtx().__version__
        return EngineChoice(name, f"asked for; TensorRT for RTX {version}")
    raise EngineUnavailableError(f"expected an engine from {', '.join(ENGINES)}, got {name!r}")
