"""Reductions along axes."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import Flag, Ints, as_int, axis_list

_Reduction = Callable[[Tensor, list[int], bool], Tensor]

FEW = 4
"""Elements of an axis that are added one by one, in a fifth of the time: adaptive pooling averages 2 by 2."""


def _reduction(name: str) -> Callable[[_Reduction], Callable[..., Tensor]]:
    """Enter a function of a tensor, the axes and whether these stay with one element, as ``name``."""

    def enter(function: _Reduction) -> Callable[..., Tensor]:
        def reduce(
            x: Tensor, axes: Ints | None = None, *, keepdims: Flag = 1, noop_with_empty_axes: Flag = 0
        ) -> Tensor:
            chosen = axis_list(axes, x.ndim)
            if x.ndim == 0 or (chosen is None and noop_with_empty_axes):
                return function(x.unsqueeze(0), [0], False)  # each element by itself
            return function(x, chosen or list(range(x.ndim)), bool(keepdims))

        reduce.__name__, reduce.__qualname__ = function.__name__, function.__qualname__
        return operator(name)(reduce)

    return enter


@_reduction("ReduceMean")
def reduce_mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = x.dtype in (torch.float32, torch.float64)  # the sum of others may overflow
    if not wide or not all(0 < x.shape[axis] <= FEW for axis in axes):
        return x.mean(axes, keepdim=keep)
    for axis in sorted(axes, reverse=True):
        x = functools.reduce(torch.add, x.unbind(axis)) / x.shape[axis]
        x = x.unsqueeze(axis) if keep else x
    return x


@_reduction("ReduceSum")
def reduce_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


@_reduction("ReduceMax")
def reduce_max(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amax(axes, keepdim=keep)


@_reduction("ReduceMin")
def reduce_min(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.amin(axes, keepdim=keep)


@_reduction("ReduceProd")
def reduce_prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return functools.reduce(
        lambda y, axis: y.prod(axis, keepdim=keep, dtype=y.dtype), sorted(axes, reverse=True), x
    )


@_reduction("ReduceL1")
def reduce_l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.abs().sum(axes, keepdim=keep, dtype=x.dtype)


@_reduction("ReduceL2")
def reduce_l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x * x).sum(axes, keepdim=keep).sqrt().to(x.dtype)


@_reduction("ReduceSumSquare")
def reduce_sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x * x).sum(axes, keepdim=keep, dtype=x.dtype)


@_reduction("ReduceLogSum")
def reduce_log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep).log()


@_reduction("ReduceLogSumExp")
def reduce_log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.logsumexp(axes, keepdim=keep)


@operator("ArgMax")
def argmax(x: Tensor, *, axis: int = 0, keepdims: Flag = 1, select_last_index: Flag = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keepdim=bool(keepdims))
    return x.argmax(axis, keepdim=bool(keepdims))


@operator("ArgMin")
def argmin(x: Tensor, *, axis: int = 0, keepdims: Flag = 1, select_last_index: Flag = 0) -> Tensor:
    if select_last_index:
        return x.shape[axis] - 1 - x.flip(axis).argmin(axis, keepdim=bool(keepdims))
    return x.argmin(axis, keepdim=bool(keepdims))


@operator("TopK")
def topk(x: Tensor, k: Ints, *, axis: int = -1, largest: Flag = 1) -> tuple[Tensor, Tensor]:
    """Sorted stably, as equal values come in the order of their places."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, as_int(k)), indices.narrow(axis, 0, as_int(k))


@operator("CumSum")
def cumsum(x: Tensor, axis: Ints, *, exclusive: Flag = 0, reverse: Flag = 0) -> Tensor:
    dim = as_int(axis)
    x = x.flip(dim) if reverse else x
    sums = x.cumsum(dim, dtype=x.dtype)
    sums = sums - x if exclusive else sums
    return sums.flip(dim) if reverse else sums
