"""Activations."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import TENSOR_OPERATORS, enter_all, operator
from converter.graph.twin.values import Number


def _unary(x: Tensor) -> Tensor:
    raise NotImplementedError


_PLAIN = {
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
}
enter_all(TENSOR_OPERATORS, _PLAIN, _unary)


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    by_channel = (1, *x.shape[1:2], *[1] * (x.ndim - 2))
    same = x.is_floating_point() and x.dtype == slope.dtype
    if same and (slope.numel() == 1 or (1,) * (x.ndim - slope.ndim) + tuple(slope.shape) == by_channel):
        return F.prelu(x, slope.flatten())  # forward and back in a quarter of the time
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@operator("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    return gamma * F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (x * alpha + beta).clamp(0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    kept = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))
    return kept.to(x.dtype)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    if opset >= 13:
        return torch.softmax(x, -1 if axis is None else axis)
    return torch.softmax(_flattened(x, axis), -1).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    if opset >= 13:
        return torch.log_softmax(x, -1 if axis is None else axis)
    return torch.log_softmax(_flattened(x, axis), -1).reshape(x.shape)


@operator("Hardmax")
def hardmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    if opset >= 13:
        axis = -1 if axis is None else axis
        return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)
    flat = _flattened(x, axis)
    return torch.zeros_like(flat).scatter(-1, flat.argmax(-1, keepdim=True), 1).reshape(x.shape)


def _flattened(x: Tensor, axis: int | None) -> Tensor:
    """``x`` as opsets below 13 see it: the axes from ``axis`` on are one."""
    axis = 1 if axis is None else axis % x.ndim
    return x.reshape(*x.shape[:axis], -1)


@operator("Dropout")
def dropout(
    x: Tensor,
    ratio: Number | None = None,  # noqa: ARG001
    training_mode: Number | None = None,  # noqa: ARG001
    *,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    """``x`` itself: a twin is a network at inference."""
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))
