"""Operators on the host: shapes, and what is computed from shapes."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from converter.graph.twin.shapes import TORCH_TYPES
from converter.graph.twin.table import HOST_OPERATORS, enter_all, host_operator
from converter.graph.twin.values import Anything, Flag, Host, Ints, as_list

NumpyType = Literal[1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13]
"""ONNX's numbers of the types that NumPy has."""


def _unary(x: Host) -> Host:
    raise NotImplementedError


def _binary(a: Host, b: Host) -> Host:
    raise NotImplementedError


_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Identity": np.asarray,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Round": np.round,
    "Sign": np.sign,
    "Sqrt": np.sqrt,
}
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "Sub": np.subtract,
}
enter_all(HOST_OPERATORS, _UNARY, _unary)
enter_all(HOST_OPERATORS, _BINARY, _binary)


@host_operator("Shape")
def shape(x: Anything, *, start: int = 0, end: int | None = None) -> Host:
    return np.array(x.shape, np.int64)[start:end]


@host_operator("Size")
def size(x: Anything) -> Host:
    return np.prod(np.array(x.shape, np.int64))


@host_operator("Cast")
def host_cast(x: Host, *, to: NumpyType) -> Host:
    return x.astype(_numpy_type(to))


def _numpy_type(kind: int) -> str:
    return str(TORCH_TYPES[kind]).removeprefix("torch.")


@host_operator("CastLike")
def host_cast_like(x: Host, target: Host) -> Host:
    return x.astype(target.dtype)


@host_operator("Div")
def host_div(a: Host, b: Host) -> Host:
    if np.issubdtype(a.dtype, np.integer):
        return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)))
    return np.divide(a, b)


@host_operator("Mod")
def host_mod(a: Host, b: Host, *, fmod: Flag = 0) -> Host:
    return np.fmod(a, b) if fmod else np.mod(a, b)


@host_operator("Pow")
def host_power(x: Host, exponent: Host) -> Host:
    return np.power(x, exponent).astype(x.dtype)


@host_operator("Max")
def host_maximum(*values: Host) -> Host:
    return functools.reduce(np.maximum, values)


@host_operator("Min")
def host_minimum(*values: Host) -> Host:
    return functools.reduce(np.minimum, values)


@host_operator("Where")
def host_where(condition: Host, a: Host, b: Host) -> Host:
    return np.where(condition, a, b)


@host_operator("Gather")
def host_gather(x: Host, indices: Host, *, axis: int = 0) -> Host:
    return np.take(x, indices, axis)


@host_operator("Concat")
def host_concat(*parts: Host, axis: int) -> Host:
    return np.concatenate(parts, axis)


@host_operator("Slice")
def host_slice(
    x: Host, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Host:
    first, last = as_list(starts), as_list(ends)
    dims = range(len(first)) if axes is None else as_list(axes)
    strides = [1] * len(first) if steps is None else as_list(steps)
    for begin, end, axis, step in zip(first, last, dims, strides, strict=True):
        x = np.take(x, range(*slice(begin, end, step).indices(x.shape[axis])), axis)
    return x


@host_operator("Reshape")
def host_reshape(x: Host, shape: Ints, *, allowzero: Flag = 0) -> Host:
    sizes = as_list(shape)
    return x.reshape(sizes if allowzero else [size or x.shape[axis] for axis, size in enumerate(sizes)])


@host_operator("Squeeze")
def host_squeeze(x: Host, axes: Ints | None = None) -> Host:
    return np.squeeze(x, None if axes is None else tuple(as_list(axes)))


@host_operator("Unsqueeze")
def host_unsqueeze(x: Host, axes: Ints) -> Host:
    return np.expand_dims(x, tuple(as_list(axes)))


@host_operator("Expand")
def host_expand(x: Host, shape: Ints) -> Host:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(as_list(shape))))


@host_operator("Tile")
def host_tile(x: Host, repeats: Ints) -> Host:
    return np.tile(x, as_list(repeats))


@host_operator("Transpose")
def host_transpose(x: Host, *, perm: tuple[int, ...] | None = None) -> Host:
    return np.transpose(x, perm)


@host_operator("Range")
def host_range(start: Host, limit: Host, delta: Host) -> Host:
    values: Host = np.arange(start.item(), limit.item(), delta.item())
    return values.astype(start.dtype)


@host_operator("ReduceProd")
def host_reduce_prod(x: Host, axes: Ints | None = None, *, keepdims: Flag = 1) -> Host:
    return np.asarray(np.prod(x, _axes(axes), dtype=x.dtype, keepdims=bool(keepdims)))


@host_operator("ReduceSum")
def host_reduce_sum(x: Host, axes: Ints | None = None, *, keepdims: Flag = 1) -> Host:
    return np.sum(x, _axes(axes), dtype=x.dtype, keepdims=bool(keepdims))


@host_operator("ReduceMax")
def host_reduce_max(x: Host, axes: Ints | None = None, *, keepdims: Flag = 1) -> Host:
    return np.asarray(np.max(x, _axes(axes), keepdims=bool(keepdims)))


@host_operator("ReduceMin")
def host_reduce_min(x: Host, axes: Ints | None = None, *, keepdims: Flag = 1) -> Host:
    return np.asarray(np.min(x, _axes(axes), keepdims=bool(keepdims)))


def _axes(axes: Ints | None) -> tuple[int, ...] | None:
    return None if axes is None else tuple(as_list(axes)) or None


@host_operator("Split")
def host_split(
    x: Host, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> tuple[Host, ...]:
    size, number = x.shape[axis], num_outputs or outputs
    sizes = [-(-size // number)] * (number - 1) if split is None else as_list(split)[:-1]
    return tuple(np.split(x, np.cumsum(sizes, dtype=np.int64), axis))


@host_operator("ConstantOfShape")
def host_constant_of_shape(shape: Ints, *, value: tuple[bool | int | float, int] = (0.0, 1)) -> Host:
    number, kind = value
    return np.full(tuple(as_list(shape)), number, _numpy_type(kind))
