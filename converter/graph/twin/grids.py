"""Sampling at points of a grid."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from converter.graph.twin.table import operator
from converter.graph.twin.values import Flag, Ints, as_list

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


@operator("GridSample")
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: Flag = 0,
    mode: Literal["linear", "nearest", "cubic", "bilinear", "bicubic"] = "linear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
) -> Tensor:
    return F.grid_sample(x, grid, _MODES.get(mode, mode), padding_mode, bool(align_corners))


@operator("AffineGrid")
def affine_grid(theta: Tensor, size: Ints, *, align_corners: Flag = 0) -> Tensor:
    return F.affine_grid(theta, as_list(size), bool(align_corners))
