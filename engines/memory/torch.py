"""Device memory by PyTorch's CUDA, for machines that have it anyway."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engines.errors import BuildError, EngineUnavailableError
from engines.memory.base import DeviceBuffer, check_copy
from engines.memory.cuda_graphs import CudaGraph, capture

_INDEX = 0


def open_torch() -> "TorchDevice":
    """The first GPU by PyTorch. Raises EngineUnavailableError where PyTorch or its CUDA is missing."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(f"PyTorch can't be imported ({error}): pip install torch") from error
    if torch.version.cuda is None:
        raise EngineUnavailableError(
            f"PyTorch {torch.__version__} is built without CUDA; install the CUDA build: pip install torch"
        )
    if not torch.cuda.is_available():
        raise EngineUnavailableError(
            "PyTorch finds no GPU that answers; see what nvidia-smi lists, and whether the driver is as new as "
            f"CUDA {torch.version.cuda}"
        )
    return TorchDevice(torch)


class _Buffer:
    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.pointer, self.nbytes = int(tensor.data_ptr()), int(tensor.numel())

    def free(self) -> None:
        self.tensor = None


class _Event:
    def __init__(self, event: Any) -> None:
        self._event = event

    def record(self, stream: Any) -> None:
        self._event.record(stream.torch)

    def synchronize(self) -> None:
        self._event.synchronize()

    def elapsed_ms(self, since: Any) -> float:
        return float(since._event.elapsed_time(self._event))


class _Stream:
    def __init__(self, stream: Any) -> None:
        self.torch = stream
        self.handle = int(stream.cuda_stream)

    def synchronize(self) -> None:
        self.torch.synchronize()

    def wait(self, event: Any) -> None:
        self.torch.wait_event(event._event)


class TorchDevice:
    """The first GPU; ``torch`` is the module. See ``engines.memory.base``."""

    name = "torch"
    distinct_streams = 32  # PyTorch hands out a pool of so many in turn

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._device = torch.device("cuda", _INDEX)
        properties = torch.cuda.get_device_properties(_INDEX)
        self.gpu = str(properties.name)
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.pci_bus_id: str | None = None
        if hasattr(properties, "pci_bus_id"):  # since PyTorch 2.5
            domain, bus, slot = (
                int(getattr(properties, f"pci_{part}_id")) for part in ("domain", "bus", "device")
            )
            self.pci_bus_id = f"{domain:04x}:{bus:02x}:{slot:02x}.0"

    def current(self) -> AbstractContextManager[None]:
        block: AbstractContextManager[None] = self._torch.cuda.device(_INDEX)
        return block

    def allocate(self, nbytes: int) -> _Buffer:
        try:
            return _Buffer(self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device))
        except self._torch.cuda.OutOfMemoryError as error:
            raise BuildError(
                f"the {self.gpu} has no room for {nbytes / 2**20:.1f} MiB more; take smaller batches"
            ) from error

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        # The array keeps the tensor, and so the memory, alive.
        host: NDArray[Any] = self._torch.empty(nbytes, dtype=self._torch.uint8, pin_memory=True).numpy()
        return host.view(dtype).reshape(shape)

    def upload(self, buffer: DeviceBuffer, array: NDArray[Any]) -> None:
        check_copy(buffer, array)
        # PyTorch warns of arrays that it could write to and must not.
        array = array if array.flags.writeable else array.copy()
        _bytes_of(buffer, array.nbytes).copy_(self._tensor(array))
        self._torch.cuda.current_stream(self._device).synchronize()

    def copy_to_device(self, buffer: DeviceBuffer, host: NDArray[Any], stream: Any) -> None:
        check_copy(buffer, host)
        with self._torch.cuda.stream(stream.torch):
            _bytes_of(buffer, host.nbytes).copy_(self._tensor(host), non_blocking=True)

    def copy_to_host(self, host: NDArray[Any], buffer: DeviceBuffer, stream: Any) -> None:
        check_copy(buffer, host)
        with self._torch.cuda.stream(stream.torch):
            self._tensor(host).copy_(_bytes_of(buffer, host.nbytes), non_blocking=True)

    def stream(self) -> _Stream:
        return _Stream(self._torch.cuda.Stream(self._device))

    def event(self, timing: bool = True) -> _Event:
        return _Event(self._torch.cuda.Event(enable_timing=timing, blocking=True))

    def capture(self, stream: Any, work: Callable[[], None]) -> CudaGraph:
        # Not torch.cuda.CUDAGraph: that one is for PyTorch's own kernels, with a memory pool of its own and
        # limits that TensorRT's work does not need.
        with self.current():
            return capture(stream, work)

    def close(self) -> None:
        """Gives the memory that PyTorch keeps for later allocations back to the GPU."""
        self._torch.cuda.empty_cache()

    def __enter__(self) -> "TorchDevice":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tensor(self, host: NDArray[Any]) -> Any:
        return self._torch.from_numpy(host.reshape(-1).view(np.uint8))


def _bytes_of(buffer: Any, nbytes: int) -> Any:
    return buffer.tensor[:nbytes]
