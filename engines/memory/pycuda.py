"""Device memory by PyCUDA, for machines without PyTorch.

TensorRT works in the primary context of the GPU, as every user of CUDA's runtime API does, so PyCUDA is given
that one too. It is kept until the process ends: TensorRT would notice if it went. PyCUDA asks for a current
context in most calls and in the destructors of its objects, so each call here makes the context current for as
long as it takes. The names are those of PyCUDA 2026.1 (``pycuda.driver``).
"""

import atexit
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.errors import PYCUDA_EXTRA, BuildError, EngineUnavailableError
from engines.memory.base import DeviceBuffer, check_copy
from engines.memory.cuda_graphs import CudaGraph, capture

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for the default stream; PyCUDA has no name for it


def open_pycuda() -> "PycudaDevice":
    """The first GPU by PyCUDA. Raises EngineUnavailableError where PyCUDA or the GPU is missing."""
    try:
        driver = importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(
            f"PyCUDA can't be imported ({error}); it is compiled on the machine, with an NVIDIA driver, a compiler "
            f"and the CUDA toolkit: {PYCUDA_EXTRA}; --buffers torch does without"
        ) from error
    try:
        driver.init()
        if driver.Device.count() == 0:
            raise EngineUnavailableError("PyCUDA finds no GPU; see what nvidia-smi lists")
        return PycudaDevice(driver)
    except driver.Error as error:
        raise EngineUnavailableError(f"PyCUDA finds no GPU that answers: {error}; see nvidia-smi") from error


@cache
def _primary_context(driver: Any) -> Any:
    """PyCUDA's Context of the first GPU's primary context, one for the process."""
    context = driver.Device(0).retain_primary_context()
    # Left to its destructor, PyCUDA would detach it as if it had made it, and print that this failed.
    atexit.register(context.detach)
    return context


class _Buffer:
    def __init__(self, device: "PycudaDevice", allocation: Any, nbytes: int) -> None:
        self._device, self._allocation = device, allocation
        self.pointer, self.nbytes = int(allocation), nbytes

    def free(self) -> None:
        if self._allocation is not None:
            with self._device.current():
                self._allocation.free()
            self._allocation = None


class _Event:
    def __init__(self, device: "PycudaDevice", event: Any) -> None:
        self._device, self._event = device, event

    def record(self, stream: Any) -> None:
        with self._device.current():
            self._event.record(stream.pycuda)

    def synchronize(self) -> None:
        with self._device.current():
            self._event.synchronize()

    def elapsed_ms(self, since: Any) -> float:
        with self._device.current():
            return float(self._event.time_since(since._event))

    def close(self) -> None:
        self._event = None


class _Stream:
    def __init__(self, device: "PycudaDevice", stream: Any) -> None:
        self._device, self.pycuda = device, stream
        self.handle = int(stream.handle)

    def synchronize(self) -> None:
        with self._device.current():
            self.pycuda.synchronize()

    def wait(self, event: Any) -> None:
        with self._device.current():
            self.pycuda.wait_for_event(event._event)

    def close(self) -> None:
        self.pycuda = None


class PycudaDevice:
    """The first GPU; ``driver`` is the module ``pycuda.driver``, initialised. See ``engines.memory.base``."""

    name = "pycuda"
    distinct_streams = 1 << 16  # each is one of its own; the number only has to be larger than any use

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._context = _primary_context(driver)
        self._depth = threading.local()
        self._marks: list[_Event | _Stream] = []
        gpu = driver.Device(0)
        self.gpu = str(gpu.name())
        self.compute_capability = "{}.{}".format(*gpu.compute_capability())
        self.pci_bus_id: str | None = str(gpu.pci_bus_id())

    @contextmanager
    def current(self) -> Iterator[None]:
        depth = getattr(self._depth, "value", 0)
        if depth == 0:
            self._context.push()
        self._depth.value = depth + 1
        try:
            yield
        finally:
            self._depth.value = depth
            if depth == 0:
                self._driver.Context.pop()

    def allocate(self, nbytes: int) -> _Buffer:
        with self.current():
            try:
                return _Buffer(self, self._driver.mem_alloc(nbytes), nbytes)
            except self._driver.MemoryError as error:
                raise BuildError(
                    f"the {self.gpu} has no room for {nbytes / 2**20:.1f} MiB more; take smaller batches"
                ) from error

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        with self.current():
            array: NDArray[Any] = self._driver.pagelocked_empty(shape, np.dtype(dtype))
            return array

    def upload(self, buffer: DeviceBuffer, array: NDArray[Any]) -> None:
        check_copy(buffer, array)
        with self.current():
            self._driver.memcpy_htod(buffer.pointer, array)

    def copy_to_device(self, buffer: DeviceBuffer, host: NDArray[Any], stream: Any) -> None:
        check_copy(buffer, host)
        with self.current():
            self._driver.memcpy_htod_async(buffer.pointer, host, stream.pycuda)

    def copy_to_host(self, host: NDArray[Any], buffer: DeviceBuffer, stream: Any) -> None:
        check_copy(buffer, host)
        with self.current():
            self._driver.memcpy_dtoh_async(host, buffer.pointer, stream.pycuda)

    def stream(self) -> _Stream:
        with self.current():
            stream = _Stream(self, self._driver.Stream(_NON_BLOCKING))
        self._marks.append(stream)
        return stream

    def event(self, timing: bool = True) -> _Event:
        flags = self._driver.event_flags
        kind = int(flags.BLOCKING_SYNC) | (0 if timing else int(flags.DISABLE_TIMING))
        with self.current():
            event = _Event(self, self._driver.Event(kind))
        self._marks.append(event)
        return event

    def capture(self, stream: Any, work: Callable[[], None]) -> CudaGraph:
        with self.current():
            return capture(stream, work)

    def close(self) -> None:
        """Ends the streams and events; buffers are freed one by one, pinned arrays when they are let go."""
        with self.current():
            for mark in self._marks:
                mark.close()
        self._marks.clear()

    def __enter__(self) -> "PycudaDevice":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
