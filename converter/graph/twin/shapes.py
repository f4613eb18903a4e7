"""What moves elements and computes nothing, and types."""

import math
from typing import Literal

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import Flag, Ints, Number, as_int, as_list, as_number, axis_list

TORCH_TYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.UINT16: torch.uint16,
    onnx.TensorProto.UINT32: torch.uint32,
    onnx.TensorProto.UINT64: torch.uint64,
}
DataType = Literal[1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16]
"""ONNX's numbers of the types above."""


@operator("Cast")
def cast(x: Tensor, *, to: DataType) -> Tensor:
    return x.to(TORCH_TYPES[to])


@operator("CastLike")
def cast_like(x: Tensor, target: Tensor) -> Tensor:
    return x.to(target.dtype)


@operator("Reshape")
def reshape(x: Tensor, shape: Ints, *, allowzero: Flag = 0) -> Tensor:
    sizes = as_list(shape)
    if not allowzero:
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    chosen = axis_list(axes, x.ndim)
    return x.squeeze() if chosen is None else x.squeeze(chosen)


@operator("Unsqueeze")
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    added = as_list(axes)
    for axis in sorted(axis % (x.ndim + len(added)) for axis in added):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    return x.permute(tuple(reversed(range(x.ndim))) if perm is None else perm)


@operator("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, torch.Size(as_list(shape))))


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(as_list(repeats))


@operator("Concat")
def concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


@operator("Split")
def split(
    x: Tensor,
    split: Ints | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    outputs: int = 1,
) -> tuple[Tensor, ...]:
    if split is not None:
        return torch.split(x, as_list(split), axis)
    size, number = x.shape[axis], num_outputs or outputs
    most = -(-size // number)
    return torch.split(x, [*[most] * (number - 1), size - most * (number - 1)], axis)


@operator("Slice")
def slice_(
    x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    first, last = as_list(starts), as_list(ends)
    dims = range(len(first)) if axes is None else as_list(axes)
    strides = [1] * len(first) if steps is None else as_list(steps)
    for begin, end, axis, step in zip(first, last, dims, strides, strict=True):
        taken = range(*slice(begin, end, step).indices(x.shape[axis]))
        low, high = (taken[0], taken[-1] + 1) if step > 0 and taken else (0, 0)
        if step < 0 and taken:  # a tensor has no negative strides
            low, high = taken[-1], taken[0] + 1
        index = [slice(None)] * (axis % x.ndim) + [slice(low, high, abs(step))]
        x = x[tuple(index)]
        x = x.flip(axis) if step < 0 else x
    return x


@operator("Pad")
def pad(
    x: Tensor,
    pads: Ints,
    value: Number | None = None,
    axes: Ints | None = None,
    *,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
) -> Tensor:
    sides = as_list(pads)
    dims = axis_list(axes, x.ndim) or list(range(x.ndim))
    begin, end = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(dims):
        begin[axis], end[axis] = sides[position], sides[position + len(dims)]
    if mode == "constant":
        fill = 0 if value is None else as_number(value)
        pairs = [side for pair in zip(reversed(begin), reversed(end), strict=True) for side in pair]
        return F.pad(x, pairs, value=fill.item() if isinstance(fill, Tensor) else fill)
    for axis, (before, after) in enumerate(zip(begin, end, strict=True)):
        if before or after:
            x = x.index_select(axis, _padded_places(x, axis, before, after, mode))
    return x


def _padded_places(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Which element of ``axis`` stands at each place of the padded axis."""
    size = x.shape[axis]
    places = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    return size - 1 - (places % period - (size - 1)).abs()


@operator("ConstantOfShape")
def constant_of_shape(
    shape: Ints, *, value: tuple[bool | int | float, int] = (0.0, 1), like: Tensor
) -> Tensor:
    number, kind = value
    return torch.full(as_list(shape), number, dtype=TORCH_TYPES[kind], device=like.device)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: DataType | None = None, k: int = 0) -> Tensor:
    kind = x.dtype if dtype is None else TORCH_TYPES[dtype]
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return (columns - rows.unsqueeze(1) == k).to(kind)


@operator("Trilu")
def trilu(x: Tensor, k: Ints | None = None, *, upper: Flag = 1) -> Tensor:
    diagonal = 0 if k is None else as_int(k)
    return x.triu(diagonal) if upper else x.tril(diagonal)


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    batch, depth, height, width = x.shape
    blocks = x.reshape(batch, blocksize, blocksize, depth // blocksize**2, height, width)
    blocks = blocks.permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, depth // blocksize**2, height * blocksize, width * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_unshuffle(x, blocksize)
    batch, depth, height, width = x.shape
    blocks = x.reshape(batch, depth, height // blocksize, blocksize, width // blocksize, blocksize)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, depth * blocksize**2, height // blocksize, width // blocksize)
