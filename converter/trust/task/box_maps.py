"""Detectors that give maps for each stride, not decoded: YOLOv3 to v7, Yolo-FastestV2, FCOS, NanoDet, RetinaNet.

The sides of their anchors are in no output, so nominal ones stand for them: FP32's and INT8's boxes are decoded alike,
and how far they overlap says how far the network's numbers agree, but the boxes are not those of the user's program.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from converter.trust.task.base import Tensors
from converter.trust.task.box_anchors import Anchors
from converter.trust.task.box_grid import Grid, Size, corners, exponential, grid_of
from converter.trust.task.final import Final, logits_from

Form = Literal["sigmoids", "cells", "offsets", "distances", "bins"]
"""What four numbers are: sigmoids of offsets and sides as YOLOv5's, offsets and logarithms in strides as YOLOX's, or
in sides of the anchor as RetinaNet's, distances of the four sides in strides as FCOS's, or a distribution over such
distances as NanoDet's."""

_UNLIKELY = -2.0
"""A trained detector finds nothing at half of the places of any picture: the logits there are below this."""
_ANCHORS = (1, 2, 3, 6, 9)
_BINS = (8, 16, 17)
_YOLO_ANCHORS = 3


@dataclass(frozen=True)
class JointMaps:
    """Each of ``levels`` is ``[n, 3 * (5 + classes), h, w]`` or ``[n, 3, h, w, 5 + classes]``."""

    levels: tuple[int, ...]
    grid: Grid
    classes: int
    final: Final
    in_pixels: bool = False

    def describe(self) -> str:
        return f"YOLO's maps at {len(self.levels)} strides, decoded with nominal anchors"

    def anchors(self, outputs: Tensors) -> Anchors:
        joint = torch.cat([_by_anchor(outputs[level].float()) for level in self.levels], dim=2)
        logits = logits_from(joint, self.final)
        regressions = logits[:, :4]
        boxes = _decoded(regressions, self.grid, "sigmoids")
        return Anchors(logits[:, 5:], regressions, boxes, logits[:, 4:5])


def _by_anchor(values: Tensor) -> Float[Tensor, "batch columns anchors"]:
    """A level's columns of each of three anchors of each cell."""
    if values.dim() == 4:
        values = values.unflatten(1, (_YOLO_ANCHORS, -1)).movedim(2, 4)
    return values.flatten(1, 3).transpose(1, 2)


def joint_maps(outputs: Tensors, size: Size) -> JointMaps | None:
    """The layout of maps of equal columns, whose fifth says nearly everywhere that there is nothing."""
    maps = sorted(range(len(outputs)), key=lambda index: -_rows(outputs[index]))
    columns = {_columns(values) for values in outputs}
    strides = _strides([_shape(outputs[index]) for index in maps], size)
    if len(maps) < 2 or len(columns) > 1 or 0 in columns or strides is None:
        return None
    joint = torch.cat([_by_anchor(outputs[index].float()) for index in maps], dim=2)
    final: Final = "sigmoid" if bool(((joint >= 0) & (joint <= 1)).all()) else "logits"
    if float(logits_from(joint[:, 4], final).median()) > _UNLIKELY:
        return None
    grid = grid_of(size, strides, _YOLO_ANCHORS)
    return JointMaps(tuple(maps), grid, columns.pop() - 5, final)


def _columns(values: Tensor) -> int:
    """So many numbers has each of three anchors; 0 where there are no such anchors, or too few numbers."""
    if values.dim() == 5:
        count = values.shape[4] if values.shape[1] == _YOLO_ANCHORS else 0
    else:
        whole = values.dim() == 4 and values.shape[1] % _YOLO_ANCHORS == 0
        count = values.shape[1] // _YOLO_ANCHORS if whole else 0
    return count if count > 5 else 0


def _shape(values: Tensor) -> tuple[int, ...]:
    """Rows and columns of a map."""
    return tuple(values.shape[2:4])


def _rows(values: Tensor) -> int:
    return values.shape[2] if values.dim() > 2 else 0


def _strides(shapes: Sequence[tuple[int, ...]], size: Size) -> tuple[int, ...] | None:
    """Strides of maps, the largest first, that double from one to the next; None for others."""
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes):
        return None
    first = 2 ** round(torch.tensor(size[0] / shapes[0][0]).log2().item())
    strides = tuple(first * 2**level for level in range(len(shapes)))
    expected = [tuple(-(-side // stride) for side in size) for stride in strides]
    return strides if first >= 4 and expected == list(shapes) else None


class Roles(NamedTuple):
    """Which of a level's maps is what."""

    regression: int
    classes: int
    objectness: int | None = None


@dataclass(frozen=True)
class SplitMaps:
    """Each of ``levels`` has a map of box regressions, one of classes and perhaps one of objectness or centerness.

    With an objectness the classes are those of the cell, whichever anchor found it.
    """

    levels: tuple[Roles, ...]
    grid: Grid
    classes: int
    form: Form
    choice: bool
    in_pixels: bool

    def describe(self) -> str:
        nominal = "" if self.in_pixels else ", decoded with nominal anchors"
        return f"maps of classes and boxes at {len(self.levels)} strides{nominal}"

    def anchors(self, outputs: Tensors) -> Anchors:
        maps = [values.float() for values in outputs]
        count = len(self.grid.levels[0].sides)
        regressions = _joined(maps, [roles.regression for roles in self.levels], count)
        present = [roles.objectness for roles in self.levels if roles.objectness is not None]
        objectness = _joined(maps, present, count) if present else None
        groups = 1 if present else count
        per_level = [maps[roles.classes].flatten(2).unflatten(1, (groups, -1)) for roles in self.levels]
        spread = [values.expand(-1, count, -1, -1).transpose(1, 2).flatten(2) for values in per_level]
        boxes = _decoded(regressions, self.grid, self.form)
        return Anchors(torch.cat(spread, dim=2), regressions, boxes, objectness, choice=self.choice)


def _joined(
    maps: Sequence[Tensor], levels: Sequence[int], count: int
) -> Float[Tensor, "batch columns anchors"]:
    """The columns of each of ``count`` anchors a cell, all levels after one another."""
    per_level = [maps[index].flatten(2).unflatten(1, (count, -1)).transpose(1, 2) for index in levels]
    return torch.cat([values.flatten(2) for values in per_level], dim=2)


def split_maps(outputs: Tensors, size: Size) -> SplitMaps | None:
    """The layout of two or three maps at each of several strides, in the same order at each."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, values in enumerate(outputs):
        if values.dim() != 4:
            return None
        groups[_shape(values)].append(index)
    shapes = sorted(groups, reverse=True)
    channels = [[outputs[index].shape[1] for index in groups[shape]] for shape in shapes]
    strides = _strides(shapes, size)
    if len(shapes) < 2 or strides is None or any(other != channels[0] for other in channels[1:]):
        return None
    found: dict[int, SplitMaps] = {}
    for roles, anchors, form in _assignments(channels[0]):
        levels = tuple(_at(roles, groups[shape]) for shape in shapes)
        layout = _fitting(outputs, levels, grid_of(size, strides, anchors), form)
        if layout is not None:
            found.setdefault(roles.regression, layout)
    return next(iter(found.values())) if len(found) == 1 else None


def _at(roles: Roles, group: Sequence[int]) -> Roles:
    """The outputs that play ``roles`` at a level."""
    objectness = None if roles.objectness is None else group[roles.objectness]
    return Roles(group[roles.regression], group[roles.classes], objectness)


def _assignments(channels: Sequence[int]) -> Iterator[tuple[Roles, int, Form]]:
    """What the maps of a level can be by their channels, with the anchors of a cell."""
    for order in permutations(range(len(channels))):
        counts = [channels[index] for index in order]
        if len(order) == 3 and counts[2] in _ANCHORS and counts[0] == 4 * counts[2]:
            form: Form = "sigmoids" if counts[2] > 1 else "cells"
            yield Roles(*order), counts[2], form
        if len(order) == 2:
            anchors = counts[0] // 4
            if counts[0] % 4 == 0 and anchors in _BINS:
                yield Roles(*order), 1, "bins"
            elif counts[0] % 4 == 0 and anchors in _ANCHORS and counts[1] % anchors == 0:
                yield Roles(*order), anchors, "offsets" if anchors > 1 else "cells"


def _fitting(outputs: Tensors, levels: tuple[Roles, ...], grid: Grid, form: Form) -> SplitMaps | None:
    """The layout if the maps say nearly everywhere that there is nothing."""
    classes = torch.cat([outputs[roles.classes].float().flatten(2) for roles in levels], dim=2)
    regressions = torch.cat([outputs[roles.regression].float().flatten() for roles in levels])
    unlikely = float(classes.median()) < _UNLIKELY
    choice = False
    if levels[0].objectness is not None:
        present = torch.cat([outputs[roles.objectness or 0].float().flatten() for roles in levels])
        # Logits of independent classes are nearly all low; those of a choice are known up to a constant.
        choice = not unlikely and classes.shape[1] > 1
        unlikely = unlikely or float(present.median()) < _UNLIKELY
    if not unlikely:
        return None
    if form == "cells" and bool((regressions >= 0).all()):
        form = "distances"
    groups = 1 if levels[0].objectness is not None else len(grid.levels[0].sides)
    return SplitMaps(levels, grid, classes.shape[1] // groups, form, choice, in_pixels=form == "bins")


def _decoded(
    regressions: Float[Tensor, "batch columns anchors"], grid: Grid, form: Form
) -> Float[Tensor, "batch anchors 4"]:
    """Boxes in pixels."""
    places, values = grid.places(regressions), regressions.transpose(1, 2)
    if form == "bins":
        bins = torch.softmax(values.unflatten(2, (4, -1)), dim=-1)
        values = (bins * torch.arange(bins.shape[-1]).to(bins)).sum(dim=-1)
    if form in ("bins", "distances"):
        distances = values * places.strides
        return torch.cat([places.centres - distances[:, :, :2], places.centres + distances[:, :, 2:]], dim=2)
    if form == "sigmoids":
        values = 2 * values.sigmoid()
        centres = places.centres + (values[:, :, :2] - 1) * places.strides
        return corners(centres, values[:, :, 2:].square() * places.sides)
    unit = places.strides if form == "cells" else places.sides
    shift = values[:, :, :2] - (0.5 if form == "cells" else 0)
    return corners(places.centres + shift * unit, exponential(values[:, :, 2:]) * unit)
