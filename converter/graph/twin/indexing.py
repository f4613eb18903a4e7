"""What picks elements by indices. Indices may be negative; none is looked at on the host."""

import math
from typing import Literal

import torch
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import Index, Ints, Number, as_int, as_number, index_tensor

Reduction = Literal["none", "add", "mul", "max", "min"]
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather")
def gather(x: Tensor, indices: Index, *, axis: int = 0) -> Tensor:
    if isinstance(indices, int):
        return x.select(axis, indices)
    axis = axis % x.ndim
    places = index_tensor(indices, x) % x.shape[axis]
    picked = x.index_select(axis, places.flatten())
    return picked.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, indices.long() % x.shape[axis])


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    rows = []
    for axis in range(batch_dims):
        shape = [1] * (indices.ndim - 1)
        shape[axis] = -1
        rows.append(torch.arange(x.shape[axis], device=x.device).view(shape))
    return x[tuple(rows) + indices.long().unbind(-1)]


@operator("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: Reduction = "none"
) -> Tensor:
    places = indices.long() % x.shape[axis]
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: Reduction = "none") -> Tensor:
    places = indices.long()
    if reduction == "none":
        return x.index_put(places.unbind(-1), updates)
    depth = places.shape[-1]
    rows = torch.zeros_like(places[..., 0])
    for axis in range(depth):
        rows = rows * x.shape[axis] + places[..., axis] % x.shape[axis]
    width = math.prod(x.shape[depth:])
    rows = rows.reshape(-1, 1).expand(-1, width)
    flat = x.reshape(-1, width).scatter_reduce(0, rows, updates.reshape(-1, width), _REDUCTIONS[reduction])
    return flat.reshape(x.shape)


@operator("OneHot")
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    classes = as_int(depth)
    axis = axis % (indices.ndim + 1)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = classes
    chosen = indices.unsqueeze(axis) % classes == torch.arange(classes, device=indices.device).view(shape)
    inside = (indices >= -classes) & (indices < classes)
    return torch.where(chosen & inside.unsqueeze(axis), values[1], values[0])


@operator("NonZero")
def nonzero(x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


@operator("Compress")
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    x = x.flatten() if axis is None else x
    axis = 0 if axis is None else axis
    return x.index_select(axis, torch.nonzero(condition).flatten())


@operator("Range")
def range_(start: Number, limit: Number, delta: Number) -> Tensor:
    """Where one of the numbers is on the device: the host has to wait for it, as it decides a shape."""
    numbers = [as_number(value) for value in (start, limit, delta)]
    like = next(number for number in numbers if isinstance(number, Tensor))
    bounds = [number.item() if isinstance(number, Tensor) else number for number in numbers]
    return torch.arange(*bounds, dtype=like.dtype, device=like.device)
