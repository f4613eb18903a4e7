"""Where the anchors of a detector stand: the cells of its maps, and boxes relative to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SMALLEST_PX = 1e-3
_LARGEST_LOG = log(1000 / 16)
"""torchvision's bound of a size's logarithm, which keeps its exponential finite."""

Size = tuple[int, int]
"""Height and width in pixels."""


class Level(NamedTuple):
    """A map of ``rows`` x ``columns`` cells, and the sides in pixels of the anchors of each cell."""

    rows: int
    columns: int
    stride: int
    sides: tuple[float, ...]


class Places(NamedTuple):
    """Of each anchor, in pixels: its centre, its sides and its stride."""

    centres: Float[Tensor, "anchors 2"]
    sides: Float[Tensor, "anchors 2"]
    strides: Float[Tensor, "anchors 1"]


@dataclass(frozen=True)
class Grid:
    """The anchors of all levels in their order.

    ``by_anchor``: a level's first anchors of all cells come first, else all anchors of its first cell.
    """

    levels: tuple[Level, ...]
    by_anchor: bool = True

    def __len__(self) -> int:
        return sum(level.rows * level.columns * len(level.sides) for level in self.levels)

    def places(self, like: Tensor) -> Places:
        """Where the anchors stand, on the device of ``like`` and in its type."""
        return Places(*(values.to(like) for values in _places(self)))


def grid_of(
    size: Size, strides: Sequence[int], sides: Sequence[Sequence[float]] | int, *, by_anchor: bool = True
) -> Grid:
    """The grid of an input of this size; so many anchors a cell have nominal sides."""
    chosen = [nominal_sides(stride, sides) for stride in strides] if isinstance(sides, int) else sides
    levels = [
        Level(ceil(size[0] / stride), ceil(size[1] / stride), stride, tuple(level))
        for stride, level in zip(strides, chosen, strict=True)
    ]
    return Grid(tuple(levels), by_anchor)


def nominal_sides(stride: int, count: int) -> tuple[float, ...]:
    """Sides of anchors that are not known: 1.5 to 6 strides, as most are."""
    if count == 1:
        return (3.0 * stride,)
    return tuple(1.5 * stride * 4 ** (anchor / (count - 1)) for anchor in range(count))


@lru_cache(maxsize=16)
def _places(grid: Grid) -> Places:
    centres, sides, strides = [], [], []
    for rows, columns, stride, level_sides in grid.levels:
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cells = (torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride
        anchors, count = torch.tensor(level_sides), len(level_sides)
        centres.append(cells.repeat(count, 1) if grid.by_anchor else cells.repeat_interleave(count, 0))
        of_level = anchors.repeat_interleave(len(cells)) if grid.by_anchor else anchors.repeat(len(cells))
        sides.append(of_level[:, None].expand(-1, 2))
        strides.append(torch.full((len(cells) * count, 1), float(stride)))
    return Places(torch.cat(centres), torch.cat(sides), torch.cat(strides))


def corners(
    centres: Float[Tensor, "batch anchors 2"], sides: Float[Tensor, "batch anchors 2"]
) -> Float[Tensor, "batch anchors 4"]:
    """x1, y1, x2, y2 of boxes by their centres and sides."""
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def exponential(logs: Tensor) -> Tensor:
    """Sides relative to an anchor's, of their logarithms."""
    return logs.clamp(max=_LARGEST_LOG).exp()


def relative(
    centres: Float[Tensor, "batch anchors 2"], sides: Float[Tensor, "batch anchors 2"], places: Places
) -> Float[Tensor, "batch 4 anchors"]:
    """Boxes in pixels as a network gives them before they are decoded: in strides from their cell, and a logarithm."""
    logs = (sides.clamp_min(_SMALLEST_PX) / places.strides).log()
    return torch.cat([(centres - places.centres) / places.strides, logs], dim=-1).transpose(1, 2)
