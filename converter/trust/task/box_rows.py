"""Detectors that give a row of numbers for each anchor, decoded: YOLOv5 to YOLO11, YOLOX, YOLOv10."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from converter.trust.task.base import Tensors
from converter.trust.task.box_anchors import Anchors
from converter.trust.task.box_grid import Grid, Places, Size, corners, exponential, grid_of, relative
from converter.trust.task.final import logits_from
from converter.trust.task.heads import Head

Coordinates = Literal["pixels", "shares", "cells"]
"""Pixels of the input, shares of its width and height, or offsets from a cell and logarithms, in strides."""

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_NEAR_STRIDES = 4.0
"""How far boxes lie from the cells that found them, at most, by the median."""
_CONDITIONAL = 0.05
"""A class's probability, given an object, stays above this where there is none; its score does not."""
_UNLIKELY = 0.1
_MOST_FOUND = 1000


@dataclass(frozen=True)
class YoloRows:
    """``index`` is ``[n, anchors, columns]``, or transposed: a centre, sides, objectness or not, classes, others.

    ``prototypes`` is the output of the masks that the other columns mix.
    """

    index: int
    size: Size
    grid: Grid
    classes: int
    objectness: bool
    transposed: bool
    coordinates: Coordinates
    prototypes: int | None = None
    in_pixels: bool = True

    def describe(self) -> str:
        family = "YOLOX" if self.coordinates == "cells" else "YOLOv5" if self.objectness else "YOLOv8"
        return f"{family}'s rows, {len(self.grid)} anchors"

    def anchors(self, outputs: Tensors) -> Anchors:
        rows = outputs[self.index].float()
        rows = rows.transpose(1, 2) if self.transposed else rows
        places, first = self.grid.places(rows), 4 + self.objectness
        centres, sides = _in_pixels(rows, places, self.size, self.coordinates)
        logits = logits_from(rows[:, :, 4 : first + self.classes].transpose(1, 2), "sigmoid")
        objectness, logits = (logits[:, :1], logits[:, 1:]) if self.objectness else (None, logits)
        found = Anchors(logits, relative(centres, sides, places), corners(centres, sides), objectness)
        return self._with_extras(found, rows[:, :, first + self.classes :].transpose(1, 2), outputs)

    def _with_extras(
        self, found: Anchors, others: Float[Tensor, "batch others anchors"], outputs: Tensors
    ) -> Anchors:
        """Masks' coefficients, keypoints or angles count where something is found."""
        if others.shape[1] == 0:
            return found
        extras = [Head("value", others, found.scores().detach().sigmoid().amax(dim=1), soft=False)]
        if self.prototypes is not None:
            extras.append(Head("value", outputs[self.prototypes].float().flatten(2), soft=False))
        return Anchors(found.logits, found.regressions, found.boxes, found.objectness, extras=tuple(extras))


def _in_pixels(
    rows: Float[Tensor, "batch anchors columns"], places: Places, size: Size, coordinates: Coordinates
) -> tuple[Tensor, Tensor]:
    """Centres and sides."""
    centres, sides = rows[:, :, :2], rows[:, :, 2:4]
    if coordinates == "cells":
        return places.centres + (centres - 0.5) * places.strides, exponential(sides) * places.strides
    if coordinates == "shares":
        scale = rows.new_tensor((size[1], size[0]))
        return centres * scale, sides * scale
    return centres, sides


def yolo_rows(outputs: Tensors, size: Size) -> YoloRows | None:
    """The layout of outputs of which exactly one has as many rows as YOLO has anchors."""
    found = [_rows_at(index, outputs, size) for index in range(len(outputs))]
    layouts = [layout for layout in found if layout is not None]
    return layouts[0] if len(layouts) == 1 else None


def _rows_at(index: int, outputs: Tensors, size: Size) -> YoloRows | None:
    if outputs[index].dim() != 3:
        return None
    for transposed, per_cell, strides in product((False, True), (3, 1), _STRIDES):
        rows = outputs[index].float()
        rows = rows.transpose(1, 2) if transposed else rows
        grid = grid_of(size, strides, per_cell)
        if rows.shape[1] != len(grid) or rows.shape[2] < 5:
            continue
        coordinates = _coordinates(rows, grid, size)
        if coordinates is None or (coordinates == "cells" and per_cell > 1):
            continue
        objectness = per_cell > 1 or _has_objectness(rows[:, :, 4:])
        if coordinates == "cells" and not objectness:
            continue
        prototypes = _prototypes(outputs, size)
        others = 0 if prototypes is None else outputs[prototypes].shape[1]
        classes = _probabilities(rows[:, :, 4:]) - objectness
        if prototypes is not None:
            classes = min(classes, rows.shape[2] - 4 - objectness - others)
        if classes > 0 and _finds_little(rows[:, :, 4 : 4 + objectness + classes], objectness):
            return YoloRows(
                index,
                size,
                grid,
                classes,
                objectness,
                transposed,
                coordinates,
                prototypes if others else None,
            )
    return None


def _coordinates(rows: Float[Tensor, "batch anchors columns"], grid: Grid, size: Size) -> Coordinates | None:
    """What the first four columns are: that by which the boxes lie at their cells."""
    places = grid.places(rows)
    for coordinates in ("pixels", "shares", "cells"):
        # No side is negative, and some offset or logarithm always is.
        if coordinates == "cells" and bool((rows[:, :, :4] >= 0).all()):
            continue
        if coordinates != "cells" and bool((rows[:, :, 2:4] < 0).any()):
            continue
        centres, _ = _in_pixels(rows, places, size, coordinates)
        if float(((centres - places.centres).abs() / places.strides).median()) < _NEAR_STRIDES:
            return coordinates
    return None


def _has_objectness(scores: Float[Tensor, "batch anchors columns"]) -> bool:
    """Whether the first column is the probability of an object, and those behind it are conditional on one.

    YOLOv6 gives 1 for each object, and its classes are not conditional.
    """
    count = _probabilities(scores)
    if count < 2:
        return False
    return (
        bool((scores[:, :, 0] == 1).all()) or float(scores[:, :, 1:count].amax(dim=2).median()) > _CONDITIONAL
    )


def _finds_little(scores: Float[Tensor, "batch anchors columns"], objectness: bool) -> bool:
    """Whether there is nothing at most anchors, as in any picture."""
    best = scores[:, :, int(objectness) :].amax(dim=2)
    return float((best * scores[:, :, 0] if objectness else best).median()) < _UNLIKELY


def _probabilities(scores: Float[Tensor, "batch anchors columns"]) -> int:
    """How many columns are between 0 and 1 before the first that is not."""
    inside = ((scores >= 0) & (scores <= 1)).all(dim=1).all(dim=0)
    return int(inside.long().cumprod(dim=0).sum())


def _prototypes(outputs: Sequence[Tensor], size: Size) -> int | None:
    """The output of a quarter of the input's size and 32 channels."""
    shape = (32, -(-size[0] // 4), -(-size[1] // 4))
    found = [i for i, values in enumerate(outputs) if tuple(values.shape[1:]) == shape]
    return found[0] if len(found) == 1 else None


@dataclass(frozen=True)
class EndToEnd:
    """``index`` is ``[n, boxes, 6]``: corners in pixels, the score and the class, the best first."""

    index: int
    size: Size
    in_pixels: bool = True

    def describe(self) -> str:
        return "corners, score and class of each box"

    def anchors(self, outputs: Tensors) -> Anchors:
        rows = outputs[self.index].float()
        scale = rows.new_tensor((self.size[1], self.size[0]) * 2)
        regressions = (rows[:, :, :4] / scale).transpose(1, 2)
        logits = logits_from(rows[:, :, 4:5].transpose(1, 2), "sigmoid")
        return Anchors(logits, regressions, rows[:, :, :4], labels=rows[:, :, 5].round())


def end_to_end(outputs: Tensors, size: Size) -> EndToEnd | None:
    """The layout of a single output of six columns, whose scores fall and whose classes are whole numbers."""
    if len(outputs) != 1 or outputs[0].dim() != 3 or outputs[0].shape[2] != 6:
        return None
    rows = outputs[0].float()
    scores, classes = rows[:, :, 4], rows[:, :, 5]
    fits = (
        rows.shape[1] <= _MOST_FOUND
        and bool((rows[:, :, 2:4] >= rows[:, :, :2]).all())
        and bool(((scores >= 0) & (scores <= 1)).all() and scores.any())
        and bool((scores.diff(dim=1) <= 0).all())
        and torch.equal(classes, classes.round().clamp_min(0))
    )
    return EndToEnd(0, size) if fits else None
