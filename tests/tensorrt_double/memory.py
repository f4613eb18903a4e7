"""A GPU on host memory, with a clock that only its work and its host calls move: ``HostDevice``.

Nothing that is enqueued happens before something waits for it; then it happens in the order in which it was
enqueued. Each copy direction and the computing is a resource that does one thing at a time, so that transfers
overlap with computing and two computings do not. Pointers are real addresses. Memory is poisoned when it is
freed, and ``leaks`` counts what was not.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.errors import BuildError

POISON = 0xDD

_live: dict[int, NDArray[np.uint8]] = {}
_streams: dict[int, "HostStream"] = {}
_handles = itertools.count(0x5000, 16)


def memory_at(pointer: int, nbytes: int) -> NDArray[np.uint8]:
    """The device memory at ``pointer``; as CUDA's illegal address, an error where it was freed or is too small."""
    memory = _live.get(pointer)
    if memory is None or memory.nbytes < nbytes:
        raise RuntimeError(f"an illegal memory access was encountered at {pointer:#x}")
    return memory[:nbytes]


def stream_of(handle: int) -> "HostStream":
    return _streams[handle]


@dataclass
class _Mark:
    time_ms: float | None = None


@dataclass
class _Operation:
    stream: "HostStream"
    work: Callable[[], None]
    resource: str | None
    ms: float
    issued_ms: float
    waits_for: _Mark | None = None
    sets: _Mark | None = None


class HostBuffer:
    def __init__(self, device: "HostDevice", nbytes: int) -> None:
        self._device = device
        self._memory: NDArray[np.uint8] = np.full(nbytes, POISON, np.uint8)
        self.pointer, self.nbytes = int(self._memory.ctypes.data), nbytes
        _live[self.pointer] = self._memory
        device.leaks += 1

    def free(self) -> None:
        if _live.get(self.pointer) is self._memory:
            del _live[self.pointer]
            self._memory[:] = POISON
            self._device.graveyard.append(self._memory)  # so that no other buffer gets this address
            self._device.leaks -= 1


class HostEvent:
    def __init__(self, device: "HostDevice", timing: bool) -> None:
        self._device, self._timing = device, timing
        self.mark: _Mark | None = None

    def record(self, stream: Any) -> None:
        self.mark = _Mark()
        stream.enqueue(lambda: None, sets=self.mark)

    def synchronize(self) -> None:
        if self.mark is not None:
            self._device.run_until(self.mark)
            assert self.mark.time_ms is not None
            self._device.host_ms = max(self._device.host_ms, self.mark.time_ms)

    def elapsed_ms(self, since: Any) -> float:
        assert self._timing
        assert since._timing
        if self.mark is None or self.mark.time_ms is None or since.mark.time_ms is None:
            raise RuntimeError("CUDA_ERROR_NOT_READY")
        return float(self.mark.time_ms - since.mark.time_ms)


class HostStream:
    def __init__(self, device: "HostDevice") -> None:
        self.device = device
        self.handle = next(_handles)
        self.time_ms = 0.0
        self.capturing: list[_Operation] | None = None
        _streams[self.handle] = self

    def enqueue(
        self,
        work: Callable[[], None],
        resource: str | None = None,
        ms: float = 0.0,
        waits_for: _Mark | None = None,
        sets: _Mark | None = None,
    ) -> None:
        operation = _Operation(self, work, resource, ms, self.device.host_ms, waits_for, sets)
        (self.device.queue if self.capturing is None else self.capturing).append(operation)

    def synchronize(self) -> None:
        if self.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        mark = _Mark()
        self.enqueue(lambda: None, sets=mark)
        self.device.run_until(mark)
        self.device.host_ms = max(self.device.host_ms, self.time_ms)

    def wait(self, event: Any) -> None:
        if event.mark is not None:
            self.enqueue(lambda: None, waits_for=event.mark)


@dataclass
class HostGraph:
    operations: list[_Operation]
    device: "HostDevice"
    closed: bool = False

    def launch(self, stream: Any) -> None:
        assert not self.closed
        self.device.launches += 1
        for operation in self.operations:
            stream.enqueue(operation.work, operation.resource, operation.ms)

    def close(self) -> None:
        self.closed = True
        self.device.open_graphs.discard(id(self))


@dataclass
class HostDevice:
    """The device; the times are those of one copy in each direction."""

    h2d_ms: float = 1.0
    d2h_ms: float = 2.0
    room: int = 1 << 40
    name: str = "host"
    gpu: str = "Double GPU"
    compute_capability: str = "8.9"
    pci_bus_id: str | None = "0000:65:00.0"
    distinct_streams: int = 32
    host_ms: float = 0.0
    leaks: int = 0
    launches: int = 0
    is_closed: bool = False
    queue: deque[_Operation] = field(default_factory=deque)
    busy_until: dict[str, float] = field(default_factory=dict)
    graveyard: list[Any] = field(default_factory=list)
    open_graphs: set[int] = field(default_factory=set)

    def clock(self) -> float:
        """Seconds of the host."""
        return self.host_ms / 1000

    def run_until(self, mark: _Mark) -> None:
        while mark.time_ms is None:
            self._run(self.queue.popleft())

    def _run(self, operation: _Operation) -> None:
        stream = operation.stream
        start = max(stream.time_ms, operation.issued_ms)
        if operation.waits_for is not None:
            assert operation.waits_for.time_ms is not None
            start = max(start, operation.waits_for.time_ms)
        if operation.resource is not None:
            start = max(start, self.busy_until.get(operation.resource, 0.0))
            self.busy_until[operation.resource] = start + operation.ms
        operation.work()
        stream.time_ms = start + operation.ms
        if operation.sets is not None:
            operation.sets.time_ms = stream.time_ms

    @contextmanager
    def current(self) -> Iterator[None]:
        assert not self.is_closed
        yield

    def allocate(self, nbytes: int) -> HostBuffer:
        if nbytes > self.room:
            raise BuildError(f"the {self.gpu} has no room for {nbytes} bytes")
        return HostBuffer(self, nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    def upload(self, buffer: Any, array: NDArray[Any]) -> None:
        memory_at(buffer.pointer, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

    def copy_to_device(self, buffer: Any, host: NDArray[Any], stream: Any) -> None:
        stream.enqueue(lambda: self.upload(buffer, host), "h2d", self.h2d_ms)

    def copy_to_host(self, host: NDArray[Any], buffer: Any, stream: Any) -> None:
        def copy() -> None:
            host.reshape(-1).view(np.uint8)[:] = memory_at(buffer.pointer, host.nbytes)

        stream.enqueue(copy, "d2h", self.d2h_ms)

    def stream(self) -> HostStream:
        return HostStream(self)

    def event(self, timing: bool = True) -> HostEvent:
        return HostEvent(self, timing)

    def capture(self, stream: Any, work: Callable[[], None]) -> HostGraph:
        stream.synchronize()
        operations: list[_Operation] = []
        stream.capturing = operations
        try:
            work()
        finally:
            stream.capturing = None
        graph = HostGraph(operations, self)
        self.open_graphs.add(id(graph))
        return graph

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> "HostDevice":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
