"""Operators of ONNX Runtime's own, which its graph optimizer writes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import operator


@operator("com.microsoft.Gelu")
def exact_gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


@operator("com.microsoft.BiasGelu")
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


@operator("com.microsoft.FastGelu")
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("com.microsoft.QuickGelu")
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)
