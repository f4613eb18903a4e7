"""What every engine offers."""

from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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
