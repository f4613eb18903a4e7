"""What a provider of device memory offers: the few calls that running a plan needs.

Every method works from any thread. Asynchronous copies are ordered by their stream; the host array has to stay
as it is until that stream was synchronized.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from numpy.typing import DTypeLike, NDArray


@runtime_checkable
class DeviceBuffer(Protocol):
    """Memory of the GPU: ``nbytes`` from the address ``pointer`` on."""

    @property
    def pointer(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def free(self) -> None:
        """Gives the memory back; a second call does nothing."""
        ...


@runtime_checkable
class Event(Protocol):
    """A mark in a stream."""

    def record(self, stream: Any) -> None:
        """Sets the mark behind what ``stream`` holds by now."""
        ...

    def synchronize(self) -> None:
        """Waits, without spinning, until the GPU has passed the mark."""
        ...

    def elapsed_ms(self, since: Any) -> float:
        """Milliseconds on the GPU from the mark ``since``, the earlier one, to this one; both were passed."""
        ...


@runtime_checkable
class Stream(Protocol):
    """A queue of the GPU's work; ``handle`` is its ``cudaStream_t``."""

    @property
    def handle(self) -> int: ...
    def synchronize(self) -> None:
        """Waits until all of its work is done."""
        ...

    def wait(self, event: Any) -> None:
        """Lets later work of this stream wait for ``event``; returns at once."""
        ...


@runtime_checkable
class Graph(Protocol):
    """Captured work."""

    def launch(self, stream: Any) -> None:
        """Enqueues the work as a whole."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Device(Protocol):
    """One GPU through one provider of memory (``name``: ``pycuda`` or ``torch``); a context manager.

    ``gpu`` is its name and ``compute_capability`` like ``8.9``; ``pci_bus_id`` tells it from others of its kind.
    ``distinct_streams`` is how many streams there are; more would share one queue.
    """

    @property
    def name(self) -> str: ...
    @property
    def gpu(self) -> str: ...
    @property
    def compute_capability(self) -> str: ...
    @property
    def pci_bus_id(self) -> str | None: ...
    @property
    def distinct_streams(self) -> int: ...

    def current(self) -> AbstractContextManager[None]:
        """A block in which the device is this thread's: its calls then cost less. Blocks may nest."""
        ...

    def allocate(self, nbytes: int) -> DeviceBuffer:
        """At least ``nbytes`` of memory. Raises BuildError where the GPU has no room."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Page-locked host memory: what asynchronous copies need to be asynchronous."""
        ...

    def upload(self, buffer: DeviceBuffer, array: NDArray[Any]) -> None:
        """Copies any C-contiguous array to the start of ``buffer`` and waits for it."""
        ...

    def copy_to_device(self, buffer: DeviceBuffer, host: NDArray[Any], stream: Stream) -> None: ...
    def copy_to_host(self, host: NDArray[Any], buffer: DeviceBuffer, stream: Stream) -> None: ...
    def stream(self) -> Stream: ...
    def event(self, timing: bool = True) -> Event: ...
    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What ``work`` enqueues on ``stream``, as a graph; nothing of it runs. Raises BuildError."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> "Device": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_copy(buffer: DeviceBuffer, host: NDArray[Any]) -> None:
    """ValueError for a host array that can't be copied as one block into or out of ``buffer``."""
    if not host.flags.c_contiguous:
        raise ValueError("expected a C-contiguous host array; np.ascontiguousarray makes one")
    if host.nbytes > buffer.nbytes:
        raise ValueError(f"expected a host array of at most {buffer.nbytes} bytes, got {host.nbytes}")
