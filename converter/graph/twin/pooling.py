"""Pooling."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import AutoPad, Flag
from converter.graph.twin.windows import explicit_pads, padded, spans, window_sums

_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Windows(NamedTuple):
    """Where the windows of a pool lie; ``beyond`` is what ceil_mode adds behind ``end``, negative for unread rows."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: list[int]
    end: list[int]
    beyond: list[int]


def _windows(
    x: Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    auto_pad: AutoPad,
    ceil_mode: int,
) -> _Windows:
    rank, sizes = len(kernel), list(x.shape[2:])
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    widths = spans(kernel, dilations)
    begin, end = explicit_pads(sizes, widths, strides, pads, auto_pad)
    beyond = [0] * rank
    if ceil_mode and auto_pad == "NOTSET":
        for axis, (size, width, stride) in enumerate(zip(sizes, widths, strides, strict=True)):
            count = -(-(size + begin[axis] + end[axis] - width) // stride) + 1
            if (count - 1) * stride >= size + begin[axis]:  # it would see nothing but padding
                count -= 1
            beyond[axis] = (count - 1) * stride + width - size - begin[axis] - end[axis]
    return _Windows(kernel, strides, dilations, begin, end, beyond)


def _added(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: Flag = 0,
    dilations: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    storage_order: int = 0,
    strides: tuple[int, ...] = (),
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    rank = len(kernel_shape)
    w = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if outputs > 1:
        return _max_pool_with_indices(x, w, storage_order)
    begin = w.begin
    fits = all(2 * pad <= size for pad, size in zip(begin, kernel_shape, strict=True))
    if begin != w.end or any(w.beyond) or not fits:
        lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, begin = padded(x, begin, _added(w.end, w.beyond), lowest), [0] * rank
    return _MAX_POOLS[rank](x, w.kernel, w.strides, begin, w.dilations)


def _max_pool_with_indices(x: Tensor, w: _Windows, storage_order: int) -> tuple[Tensor, Tensor]:
    """The largest, and where in the flattened ``x`` they are."""
    rank, shape = len(w.kernel), x.shape
    places = torch.arange(x.numel(), device=x.device).view(shape)
    if storage_order:
        order = (*range(x.ndim - rank), *reversed(range(x.ndim - rank, x.ndim)))
        places = torch.arange(x.numel(), device=x.device).view([shape[axis] for axis in order]).permute(order)
    end = _added(w.end, w.beyond)
    x, places = padded(x, w.begin, end, -torch.inf), padded(places, w.begin, end)
    for axis, (size, stride, dilation) in enumerate(zip(w.kernel, w.strides, w.dilations, strict=True), 2):
        span = (size - 1) * dilation + 1
        best = x.unfold(axis, span, stride)[..., ::dilation].max(-1, keepdim=True)
        places = places.unfold(axis, span, stride)[..., ::dilation].gather(-1, best.indices).squeeze(-1)
        x = best.values.squeeze(-1)
    return x, places


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: Flag = 0,
    count_include_pad: Flag = 0,
    dilations: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    w = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    fits = all(2 * pad <= size for pad, size in zip(w.begin, kernel_shape, strict=True))
    if w.begin == w.end and not any(w.beyond) and max(w.dilations) == 1 and fits:
        pool = _AVERAGE_POOLS[len(kernel_shape)]
        return pool(x, w.kernel, w.strides, w.begin, count_include_pad=bool(count_include_pad))
    counted = x.new_ones((1, 1, *x.shape[2:]))
    counted = padded(padded(counted, w.begin, w.end, float(count_include_pad)), [0] * len(w.end), w.beyond)
    x = padded(x, w.begin, _added(w.end, w.beyond))
    return window_sums(x, *w[:3]) / window_sums(counted, *w[:3])


@operator("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: Flag = 0,
    dilations: tuple[int, ...] = (),
    p: int = 2,
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    w = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    x = padded(x.abs().pow(p), w.begin, _added(w.end, w.beyond))
    return window_sums(x, *w[:3]).pow(1 / p)


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return x.abs().pow(p).sum(_spatial(x), keepdim=True).pow(1 / p)
