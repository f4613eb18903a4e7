"""The exact largest magnitude of a tensor over all batches."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.errors import CalibrationError


def finite_amax(x: Float[Tensor, "..."], name: str) -> float:
    """``max |x|``, exact; 0 for an empty tensor. Raises CalibrationError at NaN or infinity."""
    if x.numel() == 0:
        return 0.0
    low, high = torch.aminmax(x.detach())
    amax = float(torch.maximum(-low, high))  # maximum carries NaN on, the built-in max would not
    if not math.isfinite(amax):
        broken = int((~torch.isfinite(x)).sum())
        raise CalibrationError(
            f"expected finite values in tensor '{name}', got {broken} of {x.numel()} that are NaN or "
            "infinite; check the weights, the normalisation (--mean, --std) and the calibration data"
        )
    return amax


def memory_axes(x: Float[Tensor, "..."]) -> list[int]:
    """The dimensions from the slowest to the fastest in memory."""
    return sorted(range(x.dim()), key=x.stride, reverse=True)


def in_memory_order(x: Float[Tensor, "..."]) -> Float[Tensor, "values"]:
    """All values in one dimension, in the order of memory: channels-last tensors are not copied."""
    return x.permute(memory_axes(x)).reshape(-1)


class AmaxCollector:
    """Running ``max |x|`` of one named tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.amax = 0.0

    def collect(self, x: Float[Tensor, "..."]) -> None:
        """Take in one batch of the tensor."""
        self.amax = max(self.amax, finite_amax(in_memory_order(x), self.name))
