"""Exact largest magnitudes: of an activation over all batches, and of each channel of a weight."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.errors import CalibrationError
from calibrators.ranges.scales import DEAD_AMAX, MIN_AMAX


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


def in_memory_order(x: Float[Tensor, "..."]) -> Float[Tensor, "values"]:
    """All values in one dimension, in the order of memory: channels-last tensors are not copied."""
    axes = sorted(range(x.dim()), key=x.stride, reverse=True)
    return x.permute(axes).reshape(-1)


def weight_amax(weight: Float[Tensor, "..."], axis: int) -> Float[Tensor, "channels"]:
    """Largest magnitude of each channel of a weight: float32 of shape (weight.shape[axis],), on its device.

    A channel that is zero throughout, or too small for a float32 scale, is rounded to zeros by any scale. It
    gets the largest amax of the whole weight (1 where that is dead too), so that a bias quantized with the
    product of the scales does not overflow. Raises CalibrationError at NaN or infinity.
    """
    channels = weight.detach().movedim(axis, 0).flatten(1).float()
    if channels.shape[1] == 0:
        raise CalibrationError(f"expected a weight with elements, got shape {tuple(weight.shape)}")
    largest = finite_amax(channels, f"weight of shape {tuple(weight.shape)}")
    amax = channels.abs().amax(dim=1)
    fallback = largest if largest >= MIN_AMAX else DEAD_AMAX
    return torch.where(amax >= MIN_AMAX, amax, torch.full_like(amax, fallback))


class AmaxCollector:
    """Running ``max |x|`` of one named tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.amax = 0.0

    def collect(self, x: Float[Tensor, "..."]) -> None:
        """Take in one batch of the tensor."""
        self.amax = max(self.amax, finite_amax(in_memory_order(x), self.name))
