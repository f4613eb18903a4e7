"""What every engine offers."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Outputs = dict[str, NDArray[Any]]
"""By name, in the engine's order: float32 whatever the width of the network's floats, integers and booleans as is."""


@runtime_checkable
class Engine(Protocol):
    """A built network that runs; a context manager, since it holds threads or device memory.

    ``input_shape`` is (channels, height, width); ``precision`` is ``fp32``, ``fp16`` or ``int8``. The order of
    ``output_names`` is that of the ONNX graph; a plan may have another one, so tell outputs apart by name.
    """

    @property
    def name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    @property
    def output_names(self) -> tuple[str, ...]: ...
    def infer(self, x: NDArray[Any]) -> Outputs:
        """Every output of normalised float32 images (batch, channels, height, width)."""
        ...

    def run(self, x: NDArray[Any]) -> Logits:
        """The first output of ``infer`` alone, as float32: a classifier's logits (batch, classes)."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> "Engine": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def outputs_from(names: Iterable[str], values: Iterable[NDArray[Any]]) -> Outputs:
    """``values`` under their ``names``, in the types of ``Outputs``; copied only where the type changes."""
    return {
        name: np.asarray(value, np.float32 if value.dtype.kind == "f" else value.dtype)
        for name, value in zip(names, values, strict=True)
    }
