"""Operators of PyTorch that torch.onnx can't write, in terms of those that it can."""

from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def with_known_operators(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """``program`` with the operators that torch.onnx can't write in terms of others, as far as they are known here."""
    nodes = [node for node in program.graph.nodes if node.target in _KNOWN]
    unknown = {node.target for node in nodes if _reads_indices(node)}
    known = {node.target: _KNOWN[node.target] for node in nodes if node.target not in unknown}
    return program.run_decompositions(known) if known else program


def _reads_indices(node: torch.fx.Node) -> bool:
    """Whether the second result of a pool is read."""
    return any(part.args[1:] == (1,) and part.users for part in node.users)


def _rrelu(x: Tensor, lower: float = 0.125, upper: float = 1 / 3, *_training: Any) -> Tensor:
    """RReLU at inference."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


def _adaptive_max_pool2d(x: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """The pool, one axis after the other where its windows are of several sizes; nobody reads its indices."""
    height, width = x.shape[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        x = torch.nn.functional.max_pool2d(x, (height // size[0], width // size[1]))
    else:
        x = _pooled(_pooled(x, -2, size[0]), -1, size[1])
    return x, torch.zeros_like(x, dtype=torch.int64)


def _pooled(x: Tensor, axis: int, count: int) -> Tensor:
    length = x.shape[axis]
    windows = [(part * length // count, -(-(part + 1) * length // count)) for part in range(count)]
    return torch.cat([x.narrow(axis, a, b - a).amax(axis, keepdim=True) for a, b in windows], axis)


def _adaptive_max_pool1d(x: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    values, indices = _adaptive_max_pool2d(x.unsqueeze(-2), [1, *size])
    return values.squeeze(-2), indices.squeeze(-2)


def _fold(
    x: Tensor,
    size: list[int],
    kernel: list[int],
    dilation: list[int],
    padding: list[int],
    stride: list[int],
) -> Tensor:
    """Patches added up, by a transposed convolution: a channel for each place of the kernel, which puts it there.

    ONNX has Col2Im, but TensorRT's parser does not.
    """
    axes = range(2)
    spans = [size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1 for i in axes]
    places, channels = kernel[0] * kernel[1], x.shape[-2] // (kernel[0] * kernel[1])
    weight = (
        torch.eye(places, dtype=x.dtype, device=x.device).view(places, 1, *kernel).repeat(channels, 1, 1, 1)
    )
    maps = x.unflatten(-1, [span // stride[i] + 1 for i, span in enumerate(spans)])
    extra = [span % stride[i] for i, span in enumerate(spans)]
    return torch.nn.functional.conv_transpose2d(
        maps, weight, None, stride, padding, extra, channels, dilation
    )


_KNOWN = {
    _aten.adaptive_max_pool1d.default: _adaptive_max_pool1d,
    _aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
    _aten.col2im.default: _fold,
    _aten.rrelu.default: _rrelu,
}
