"""The scale of each output channel of a weight, and its integers: one rule for writing, simulating and fine-tuning."""

import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.ranges.scales import LEVELS
from zscgan_common.int32_bias import LARGEST_BIAS

SMALLEST_SCALE = 2.0**-64
"""Below this a product of two scales leaves float32's normal numbers."""


def weight_scales(
    weight: Float[Tensor, "..."],
    axis: int,
    levels: int = LEVELS,
    min_scale: Float[Tensor, "channels"] | None = None,
) -> Float[Tensor, "channels"]:
    """The float32 scale for each index of ``axis``: ``max(amax / levels, SMALLEST_SCALE, min_scale)``.

    ``amax`` is the channel's largest magnitude. A channel of zeros gets 1, or ``min_scale`` if that is larger.
    """
    amax = weight.detach().movedim(axis, 0).unsqueeze(-1).flatten(1).abs().amax(1).float()
    scale = torch.where(amax > 0, (amax / levels).clamp_min(SMALLEST_SCALE), 1.0)
    return scale if min_scale is None else torch.maximum(scale, min_scale)


def min_scales(
    bias: Float[Tensor, "..."], input_scale: Float[Tensor, ""], channels: int
) -> Float[Tensor, "channels"]:
    """The least scales of a weight with which ``|bias| <= LARGEST_BIAS * input_scale * scale``.

    The groups of a ConvTranspose share theirs; Gemm's bias may broadcast.
    """
    smallest = bias.reshape(-1).abs().float() / input_scale / LARGEST_BIAS
    if smallest.numel() % channels:
        return smallest.max().expand(channels)
    return smallest.view(-1, channels).amax(0)


def rounded_steps(
    weight: Float[Tensor, "..."], axis: int, scale: Float[Tensor, "channels"], levels: int = LEVELS
) -> Float[Tensor, "..."]:
    """``clip(round_half_even(weight / scale), -levels, levels)``."""
    return (weight.float() / along(scale, axis, weight.dim())).round_().clamp_(-levels, levels)


def along(scale: Float[Tensor, "channels"], axis: int, dimensions: int) -> Float[Tensor, "..."]:
    """``scale`` shaped to lie along ``axis`` of a weight."""
    shape = [1] * dimensions
    shape[axis] = -1
    return scale.view(shape)
