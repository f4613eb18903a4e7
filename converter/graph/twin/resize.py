"""Resize and Upsample: along each axis a matrix, or an index for nearest; PyTorch's own where it does the same."""

import functools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import Flag, Floats, Ints, as_list, axis_list, tensor_like

Coordinates = Literal[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
]
Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"]


class _Axis(NamedTuple):
    """One axis that changes: its sizes before and after, and their quotient as the model has it."""

    axis: int
    size: int
    out: int
    scale: float


class _Filter(NamedTuple):
    mode: str
    coordinates: str
    cubic_coeff_a: float = -0.75
    exclude_outside: int = 0
    antialias: int = 0


@operator("Upsample")
def upsample(
    x: Tensor, scales: Floats, *, mode: Literal["nearest", "linear", "bilinear"] = "nearest"
) -> Tensor:
    axes = _changed_axes(x, list(range(x.ndim)), as_list(scales), None, "stretch")
    if mode == "nearest":
        return _nearest(x, axes, "asymmetric", "simple")
    return _filtered(x, axes, _Filter("linear", "asymmetric"))


@operator("Resize")
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: Flag = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: Coordinates = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: Flag = 0,
    keep_aspect_ratio_policy: Literal["stretch", "not_larger", "not_smaller"] = "stretch",
    mode: Literal["nearest", "linear", "cubic"] = "nearest",
    nearest_mode: Nearest = "round_prefer_floor",
    opset: int,
) -> Tensor:
    if opset < 11:  # the second input is ``scales``
        assert roi is not None
        return upsample(x, roi, mode="nearest" if mode == "nearest" else "linear")
    chosen = axis_list(axes, x.ndim) or list(range(x.ndim))
    wanted = as_list(sizes) if sizes is not None else []
    changed = _changed_axes(
        x, chosen, as_list(scales) if scales is not None else [], wanted, keep_aspect_ratio_policy
    )
    if mode == "nearest":
        return _nearest(x, changed, coordinate_transformation_mode, nearest_mode)
    which = _Filter(mode, coordinate_transformation_mode, cubic_coeff_a, exclude_outside, antialias)
    return _filtered(x, changed, which)


def _changed_axes(
    x: Tensor, axes: list[int], scales: list[float], sizes: list[int] | None, policy: str
) -> list[_Axis]:
    if sizes and policy != "stretch":
        quotients = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
        scale = min(quotients) if policy == "not_larger" else max(quotients)
        scales, sizes = [scale] * len(axes), [math.floor(scale * x.shape[axis] + 0.5) for axis in axes]
    elif sizes:
        scales = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    else:
        sizes = [math.floor(scale * x.shape[axis]) for axis, scale in zip(axes, scales, strict=True)]
    rows = zip(axes, scales, sizes, strict=True)
    return [_Axis(axis, x.shape[axis], out, scale) for axis, scale, out in rows if scale != 1]


def _nearest(x: Tensor, axes: list[_Axis], coordinates: str, nearest_mode: str) -> Tensor:
    picks = [_nearest_index(axis.size, axis.out, axis.scale, coordinates, nearest_mode) for axis in axes]
    plain = [
        bool(
            axis.out % axis.size == 0 and np.array_equal(pick, np.arange(axis.out) // (axis.out // axis.size))
        )
        for axis, pick in zip(axes, picks, strict=True)
    ]
    if all(plain) and _is_spatial(x, axes):
        return F.interpolate(x, _spatial_size(x, axes), mode="nearest")
    for axis, pick in zip(axes, picks, strict=True):
        x = x.index_select(axis.axis, tensor_like(pick, x))
    return x


def _filtered(x: Tensor, axes: list[_Axis], which: _Filter) -> Tensor:
    corners = which.coordinates == "align_corners"
    halves = which.coordinates == "half_pixel" or (
        which.coordinates == "pytorch_half_pixel" and all(axis.out > 1 for axis in axes)
    )
    exact = all(math.isclose(axis.size * axis.scale, axis.out, rel_tol=1e-6) for axis in axes)
    known = which.mode == "linear" or (x.ndim == 4 and which.cubic_coeff_a == -0.75)
    plain = not which.exclude_outside and not which.antialias
    if (corners or halves) and exact and known and plain and _is_spatial(x, axes):
        mode = "bicubic" if which.mode == "cubic" else {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
        return F.interpolate(x, _spatial_size(x, axes), mode=mode, align_corners=corners)
    for axis in axes:
        weights = tensor_like(_matrix(axis.size, axis.out, axis.scale, which), x).to(x.dtype)
        x = torch.matmul(x.movedim(axis.axis, -1), weights.t()).movedim(-1, axis.axis)
    return x


def _is_spatial(x: Tensor, axes: list[_Axis]) -> bool:
    return 3 <= x.ndim <= 5 and bool(axes) and all(axis.axis >= 2 for axis in axes)


def _spatial_size(x: Tensor, axes: list[_Axis]) -> list[int]:
    size = list(x.shape)
    for axis in axes:
        size[axis.axis] = axis.out
    return size[2:]


def _positions(size: int, out: int, scale: float, coordinates: str) -> Float[np.ndarray, "out"]:
    """Where each place of the result lies in the input; in float32, as ONNX Runtime has it."""
    x, factor = np.arange(out, dtype=np.float32), np.float32(scale)
    half, one = np.float32(0.5), np.float32(1)
    if coordinates == "align_corners":
        return np.asarray(x * np.float32(size - 1) / np.float32(max(out - 1, 1)))
    if coordinates == "asymmetric":
        return np.asarray(x / factor)
    if coordinates == "tf_half_pixel_for_nn":
        return np.asarray((x + half) / factor)
    if coordinates == "half_pixel_symmetric":
        centre = np.float32(size / 2) * (one - np.float32(out) / (factor * np.float32(size)))
        return np.asarray(centre + (x + half) / factor - half)
    if coordinates == "pytorch_half_pixel" and out == 1:
        return np.zeros_like(x)
    return np.asarray((x + half) / factor - half)


@functools.lru_cache(maxsize=256)
def _nearest_index(
    size: int, out: int, scale: float, coordinates: str, nearest_mode: str
) -> Int[np.ndarray, "out"]:
    x = _positions(size, out, scale, coordinates)
    if nearest_mode == "simple":
        nearest_mode = "ceil" if scale < 1 else "floor"
    rounded: NDArray[Any] = {
        "round_prefer_floor": lambda: np.ceil(x - np.float32(0.5)),
        "round_prefer_ceil": lambda: np.floor(x + np.float32(0.5)),
        "floor": lambda: np.floor(x),
        "ceil": lambda: np.ceil(x),
    }[nearest_mode]()
    return np.asarray(np.clip(rounded, 0, size - 1).astype(np.int64))


@functools.lru_cache(maxsize=64)
def _matrix(size: int, out: int, scale: float, which: _Filter) -> Float[np.ndarray, "out size"]:
    """How much of each input element each place of the result holds."""
    x = _positions(size, out, scale, which.coordinates).astype(np.float64)[:, None]
    stretch = max(1.0, 1 / scale) if which.antialias else 1.0
    reach = math.ceil((2 if which.mode == "cubic" else 1) * stretch)
    taps = np.floor(x) + np.arange(-reach, reach + 2)
    kernel = _cubic if which.mode == "cubic" else _triangle
    weights = kernel(np.abs(taps - x) / stretch, which.cubic_coeff_a)
    if which.exclude_outside:
        weights = np.where((taps >= 0) & (taps < size), weights, 0)
    weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out)[:, None], np.clip(taps, 0, size - 1).astype(np.int64)), weights)
    return matrix


def _triangle(distance: NDArray[Any], _a: float) -> NDArray[Any]:
    return np.asarray(np.maximum(1 - distance, 0))


def _cubic(distance: NDArray[Any], a: float) -> NDArray[Any]:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, with its parameter ``a``."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * a * d - 4 * a
    result: NDArray[Any] = np.where(d <= 1, near, np.where(d < 2, far, 0))
    return result
