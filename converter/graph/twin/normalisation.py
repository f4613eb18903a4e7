"""Normalisations."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibrators.zscgan.batch_norm import FrozenBatchNorm
from converter.graph.twin.table import operator
from converter.graph.twin.windows import padded


class TwinBatchNorm(FrozenBatchNorm):
    """A batch norm made of an ONNX node's values."""

    def __init__(
        self, scale: nn.Parameter, bias: nn.Parameter, mean: Tensor, variance: Tensor, epsilon: float
    ) -> None:
        super().__init__(len(scale), epsilon, affine=False, track_running_stats=False)
        self.weight, self.bias = scale, bias
        self.running_mean: Tensor
        self.running_var: Tensor
        self.running_mean, self.running_var = mean, variance


@operator("BatchNormalization", spatial=1, training_mode=0)
def batch_normalisation(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)


@operator("InstanceNormalization")
def instance_normalisation(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@operator("LayerNormalization")
def layer_normalisation(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    axis = axis % x.ndim
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        result = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, eps=epsilon) * scale
        result = result if bias is None else result + bias
    if outputs == 1:
        return result
    axes = list(range(axis, x.ndim))
    mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    return (result, mean, (variance + epsilon).rsqrt())[:outputs]


@operator("GroupNormalization")
def group_normalisation(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, opset: int
) -> Tensor:
    if opset < 21:  # one scale for each group
        width = x.shape[1] // num_groups
        scale, bias = scale.repeat_interleave(width), bias.repeat_interleave(width)
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("RMSNormalization")
def rms_normalisation(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    axes = list(range(axis % x.ndim, x.ndim))
    return (x * (x.square().mean(axes, keepdim=True) + epsilon).rsqrt()) * scale


@operator("LRN")
def local_response_normalisation(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    flat = x.square().flatten(2)
    before, after = (size - 1) // 2, size // 2
    sums = padded(flat, [before, 0], [after, 0]).unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * sums.reshape(x.shape)) ** beta


@operator("LpNormalization")
def lp_normalisation(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(
        norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm)
    )


@operator("MeanVarianceNormalization")
def mean_variance_normalisation(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)
