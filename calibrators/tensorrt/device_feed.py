"""Calibration batches for TensorRT: cut to one size, and handed over in device memory.

TensorRT reads as many values from a batch's pointer as the calibration profile says, whatever is there. So no
batch may be shorter than another.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from calibrators.data.batches import Batches
from calibrators.errors import CalibrationError
from calibrators.ranges.amax import finite_amax
from calibrators.tensorrt.gpu_memory import release_gpu_memory


@dataclass(frozen=True)
class BatchPlan:
    """``count`` batches of ``size`` samples each."""

    count: int
    size: int

    @property
    def samples(self) -> int:
        """Samples in all batches together."""
        return self.count * self.size


def plan_from_samples(samples: int, largest: int) -> BatchPlan:
    """The fewest batches that hold the samples with at most ``largest`` in each, all of them the same size.

    ``count = ceil(samples / largest)``, ``size = floor(samples / count)``: fewer than ``count`` samples are
    left out (512 by 64 gives 8 batches of 64; 500 by 64 gives 8 of 62 and leaves out 4). Raises ValueError
    for numbers below 1.
    """
    if samples < 1 or largest < 1:
        raise ValueError(f"expected samples and batch_size of 1 or more, got {samples} and {largest}")
    count = -(-samples // largest)
    return BatchPlan(count, samples // count)


def equal_batches(
    batches: Batches, plan: BatchPlan, shape: tuple[int, int, int]
) -> Iterator[NDArray[np.float32]]:
    """The samples in their order, cut anew: contiguous float32 arrays of (size, channels, height, width).

    Raises CalibrationError for a batch of another ``shape`` (channels, height, width) or type, for NaN or
    infinity, and where the batches hold fewer samples than the plan.
    """
    rest, made = torch.empty(0, *shape), 0
    for number, (x, _) in enumerate(batches):
        rest = torch.cat([rest, _checked(x, shape, number)])
        while len(rest) >= plan.size:
            yield rest[: plan.size].numpy()
            made, rest = made + 1, rest[plan.size :]
            if made == plan.count:
                return
    raise CalibrationError(
        f"expected {plan.samples} samples, got {made * plan.size + len(rest)}: the batches hold fewer than "
        "their num_samples says"
    )


def _checked(
    x: Float[Tensor, "batch channels height width"], shape: tuple[int, int, int], number: int
) -> Float[Tensor, "batch channels height width"]:
    """The batch in host memory as contiguous float32."""
    if x.dim() != 4 or tuple(x.shape[1:]) != shape or not x.is_floating_point():
        raise CalibrationError(
            f"expected floating-point batches of shape (samples, {', '.join(map(str, shape))}), got "
            f"{x.dtype} of {tuple(x.shape)} in batch {number}; give the InputSpec of these images, or resize them"
        )
    x = x.detach().to("cpu", torch.float32)
    finite_amax(x, f"input of calibration batch {number}")
    return x.contiguous()


@runtime_checkable
class DeviceBuffer(Protocol):
    """A piece of device memory."""

    @property
    def pointer(self) -> int: ...

    def free(self) -> None: ...


@runtime_checkable
class DeviceMemory(Protocol):
    """Where the batches are put.

    ``upload`` copies a C-contiguous host array into a buffer that this memory allocated, of a type of its
    own, and returns when the values are there.
    """

    def allocate(self, nbytes: int) -> DeviceBuffer: ...

    def upload(self, buffer: Any, array: NDArray[np.float32]) -> None: ...


class TorchBuffer:
    """Memory of PyTorch's allocator."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    @property
    def pointer(self) -> int:
        return self.data.data_ptr()

    def free(self) -> None:
        """Give the memory back to PyTorch."""
        self.data = torch.empty(0, dtype=torch.uint8)


class TorchMemory:
    """Memory of the current CUDA device (or another device of PyTorch), by PyTorch."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device

    def allocate(self, nbytes: int) -> TorchBuffer:
        return TorchBuffer(torch.empty(nbytes, dtype=torch.uint8, device=self.device))

    def upload(self, buffer: TorchBuffer, array: NDArray[np.float32]) -> None:
        # From pageable memory: the copy has ended when copy_ returns.
        buffer.data.copy_(torch.from_numpy(array).reshape(-1).view(torch.uint8))


def cuda_memory() -> TorchMemory:
    """PyTorch's CUDA memory. Raises CalibrationError where PyTorch has none."""
    if not torch.cuda.is_available():
        raise CalibrationError(
            "expected a CUDA GPU to hand the calibration batches over, but PyTorch sees none; install a PyTorch "
            "build with CUDA, or give memory= an object that allocates and uploads"
        )
    return TorchMemory()


class Feed:
    """One device buffer that is filled with the next batch each time.

    The buffer is allocated for the first batch, in the thread and on the device of the caller, and stays
    until ``free``: TensorRT may still be reading the last batch when it learns that there are no more.
    """

    def __init__(self, arrays: Iterator[NDArray[np.float32]], memory: DeviceMemory) -> None:
        self.handed_over = 0
        self._arrays = arrays
        self._memory = memory
        self._buffer: DeviceBuffer | None = None

    def next_pointer(self) -> int | None:
        """Device address of the next batch, or None after the last."""
        array = next(self._arrays, None)
        if array is None:
            self._arrays = iter(())  # with what made them; the build goes on without
            release_gpu_memory()
            return None
        if self._buffer is None:
            self._buffer = self._memory.allocate(array.nbytes)
        self._memory.upload(self._buffer, array)
        self.handed_over += 1
        return self._buffer.pointer

    def free(self) -> None:
        """Give the device memory back; the feed is at its end."""
        self._arrays = iter(())
        if self._buffer is not None:
            self._buffer.free()
            self._buffer = None
