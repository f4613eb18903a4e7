"""Batch norm's arithmetic over feature maps on a CPU, in blocks that stay in the processor's last cache.

PyTorch's own kernels for channels_last take the channels of one pixel as the innermost loop, which is too short where
there are 8 or 24 of them, go over memory once for each operation, and add up millions of values one by one. Here a row
is many pixels, each block is read once for several operations, and the sums of blocks are merged.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK = 1 << 20
"""Values of one block: 4 MiB of float32. A step of EfficientNet-Lite0 takes about a tenth longer with 512 KiB."""
ROW = 256
"""About as many values are one row, so that the innermost loop is long."""

Map = Float[Tensor, "batch channels height width"]
Vectors = Float[Tensor, "_ channels"]
"""A number for each channel, of every sample or of all."""


def fits_blocks(x: Float[Tensor, "..."]) -> bool:
    """Whether the functions here take ``x``: a float32 map in channels_last on the CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


@dataclass(frozen=True)
class _Rows:
    """How maps of one shape are cut: ``pixels`` make a row, ``height`` rows a block, of ``groups`` of rows.

    A group is a sample where vectors belong to samples, else the whole batch.
    """

    shape: torch.Size
    groups: int

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def pixels(self) -> int:
        area, most = self.shape[2] * self.shape[3], max(1, ROW // self.channels)
        return max(number for number in range(1, most + 1) if area % number == 0)

    def view(self, x: Map) -> Float[Tensor, "groups rows values"]:
        """The memory of ``x``, in another format a copy of it."""
        x = x.contiguous(memory_format=torch.channels_last)
        return x.permute(0, 2, 3, 1).reshape(self.groups, -1, self.pixels * self.channels)

    def spread(self, vectors: Vectors) -> Float[Tensor, "groups values"]:
        """``vectors`` for a row, for each group."""
        return vectors.repeat(1, self.pixels).expand(self.groups, -1)

    def blocks(self, rows: int) -> Iterator[tuple[int, slice]]:
        """Group and rows of each block, of so many ``rows`` a group."""
        height = max(1, BLOCK // (self.pixels * self.channels))
        for group in range(self.groups):
            for start in range(0, rows, height):
                yield group, slice(start, start + height)


def _rows(x: Map, *vectors: Vectors) -> _Rows:
    return _Rows(x.shape, max((len(some) for some in vectors), default=1))


def moments(x: Map) -> tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]]:
    """Mean and biased variance of each channel, read once."""
    rows = _rows(x)
    view = rows.view(x)
    zeros = x.new_zeros(view.shape[2])
    parts = [view[group, some] for group, some in rows.blocks(view.shape[1])]
    found = [torch.batch_norm_update_stats(part, zeros, zeros, 0.0) for part in parts]
    means, variances = (
        torch.stack(kind).view(len(parts), rows.pixels, -1) for kind in zip(*found, strict=True)
    )
    shares = x.new_tensor([len(part) for part in parts]).view(-1, 1, 1) / (view.shape[1] * rows.pixels)
    mean = (shares * means).sum((0, 1))
    return mean, (shares * (variances + (means - mean).square())).sum((0, 1))


def in_long_rows(x: Map, scale: Vectors, shift: Vectors) -> Map:
    """``scale * x + shift``, differentiable by ``x``."""
    rows = _rows(x, scale, shift)
    result = torch.addcmul(rows.spread(shift)[:, None], rows.view(x), rows.spread(scale)[:, None])
    batch, channels, height, width = x.shape
    return result.view(batch, height, width, channels).permute(0, 3, 1, 2)


def scaled(x: Map, scale: Vectors, shift: Vectors, *, relu: bool = False) -> Map:
    """``scale * x + shift``, and of it the ReLU."""
    rows = _rows(x, scale, shift)
    result = torch.empty_like(x)
    view, out = rows.view(x), rows.view(result)
    scale, shift = rows.spread(scale), rows.spread(shift)
    for group, some in rows.blocks(view.shape[1]):
        torch.addcmul(shift[group], view[group, some], scale[group], out=out[group, some])
        if relu:
            out[group, some].relu_()
    return result


@dataclass(frozen=True)
class Gradient:
    """The gradient of a result of ``scaled``; ``result`` is given where it passed a ReLU."""

    values: Map
    result: Map | None = None

    def sums(self, x: Map, mean: Vectors, scale: Vectors, groups: int) -> tuple[Vectors, Vectors]:
        """Sums over the pixels, of each sample or of all, of this gradient, and of it times ``scale * (x - mean)``."""
        rows = _Rows(x.shape, groups)
        view = rows.view(x)
        mean, scale = rows.spread(mean)[0], rows.spread(scale)[0]
        sums, products = (x.new_zeros(groups, view.shape[2]) for _ in range(2))
        for (group, some), part in self._blocks(rows):
            _, product, total = torch.ops.aten.native_batch_norm_backward(
                part, view[group, some], scale, mean, mean, mean, scale, True, 0.0, [False, True, True]
            )
            sums[group] += total
            products[group] += product
        both = (total.view(groups, rows.pixels, -1).sum(1) for total in (sums, products))
        return next(both), next(both)

    def combined(self, x: Map, scale: Vectors, slope: Vectors, offset: Vectors) -> Map:
        """``scale`` times this gradient, plus ``slope * x + offset``."""
        rows = _rows(x, scale, slope, offset)
        result = torch.empty_like(x)
        view, out = rows.view(x), rows.view(result)
        scale, slope, offset = map(rows.spread, (scale, slope, offset))
        for (group, some), part in self._blocks(rows):
            torch.addcmul(offset[group], view[group, some], slope[group], out=out[group, some])
            out[group, some].addcmul_(part, scale[group])
        return result

    def _blocks(self, rows: _Rows) -> Iterator[tuple[tuple[int, slice], Tensor]]:
        """Each block's place and its values before the ReLU."""
        values = rows.view(self.values)
        result = None if self.result is None else rows.view(self.result)
        for group, some in rows.blocks(values.shape[1]):
            part = values[group, some]
            if result is not None:
                part = torch.ops.aten.threshold_backward(part, result[group, some], 0)
            yield (group, some), part
