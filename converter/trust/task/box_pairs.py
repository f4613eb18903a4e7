"""Detectors that give all scores and all boxes: SSD, RetinaFace, RetinaNet, DETR, YOLO-NAS."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from converter.trust.task.base import Tensors
from converter.trust.task.box_anchors import Anchors
from converter.trust.task.box_grid import Grid, Size, corners, exponential, grid_of
from converter.trust.task.final import Final, final_of, logits_from
from converter.trust.task.heads import Head

Coordinates = Literal["corners", "centres", "offsets"]
"""x1, y1, x2, y2; or a centre and sides; or both of these relative to an anchor, by SSD's variances."""

_FEWEST = 50
_UNLIKELY = -2.0
_CENTRE_VARIANCE, _SIDE_VARIANCE = 0.1, 0.2
_FACE_STRIDES = (8, 16, 32, 64)
_FACE_SIDES = ((10.0, 16.0, 24.0), (32.0, 48.0), (64.0, 96.0), (128.0, 192.0, 256.0))
_RETINA_FACE_SIDES = ((16.0, 32.0), (64.0, 128.0), (256.0, 512.0))
_SSD_STRIDES = {
    (300, 300): ((8, 16, 32, 64, 100, 300), (4, 6, 6, 6, 4, 4)),
    (512, 512): ((8, 16, 32, 64, 128, 256, 512), (4, 6, 6, 6, 6, 4, 4)),
}
_LITE_STRIDES = (16, 32, 64, 128, 256, 512)
_PYRAMID_STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Scores:
    """What the columns of the scores are."""

    final: Final
    choice: bool
    background: int | None = None


@dataclass(frozen=True)
class Pairs:
    """``scores`` is ``[n, anchors, columns]``, or transposed, and ``boxes`` ``[n, anchors, 4]``.

    ``scale`` are the pixels of a box's unit in x and in y; ``grid`` is where offsets start from. ``others`` are further
    outputs of the same anchors, such as a face's landmarks.
    """

    scores: int
    boxes: int
    kind: Scores
    transposed: bool
    columns: int
    coordinates: Coordinates
    scale: tuple[float, float] = (1.0, 1.0)
    grid: Grid | None = None
    in_pixels: bool = True
    others: tuple[int, ...] = ()

    @property
    def classes(self) -> int:
        return self.columns - (self.kind.background is not None)

    def describe(self) -> str:
        made = "offsets from nominal anchors" if not self.in_pixels else self.coordinates
        return f"scores of {self.classes} class{'es' if self.classes > 1 else ''} and boxes by {made}"

    def anchors(self, outputs: Tensors) -> Anchors:
        scores = outputs[self.scores].float()
        scores = scores if self.transposed else scores.transpose(1, 2)
        logits = logits_from(scores, self.kind.final)
        values = outputs[self.boxes].float()
        found = Anchors(
            logits,
            values.transpose(1, 2),
            self._decoded(values),
            None,
            self.kind.choice,
            self.kind.background,
        )
        if not self.others:
            return found
        weights = found.scores().detach().sigmoid().amax(dim=1)
        extras = [Head("value", outputs[i].float().transpose(1, 2), weights, soft=False) for i in self.others]
        return replace(found, extras=tuple(extras))

    def _decoded(self, values: Float[Tensor, "batch anchors 4"]) -> Float[Tensor, "batch anchors 4"]:
        first, second = values[:, :, :2], values[:, :, 2:]
        if self.grid is not None:
            places = self.grid.places(values)
            sides = exponential(second * _SIDE_VARIANCE) * places.sides
            return corners(places.centres + first * _CENTRE_VARIANCE * places.sides, sides)
        scale = values.new_tensor(self.scale * 2)
        return scale * (values if self.coordinates == "corners" else corners(first, second))


def pairs(outputs: Tensors, size: Size) -> Pairs | None:
    """The layout of outputs of which exactly two are scores and boxes of the same anchors."""
    found = list(_candidates(outputs, size))
    return found[0] if len(found) == 1 else None


def _candidates(outputs: Tensors, size: Size) -> Iterator[Pairs]:
    for b, boxes in enumerate(outputs):
        if boxes.dim() != 3 or boxes.shape[2] != 4 or boxes.shape[1] < _FEWEST:
            continue
        others = [i for i, values in enumerate(outputs) if i != b and values.dim() == 3]
        for s in others:
            transposed = outputs[s].shape[1] != boxes.shape[1]
            rows = outputs[s].transpose(1, 2) if transposed else outputs[s]
            kind = _kind(rows.float()) if rows.shape[1] == boxes.shape[1] else None
            if kind is None:
                continue
            layout = _with_coordinates(Pairs(s, b, kind, transposed, rows.shape[2], "corners"), boxes, size)
            if layout is not None:
                rest = [i for i in others if i != s and outputs[i].shape[1] == boxes.shape[1]]
                yield replace(layout, others=tuple(rest))


def _kind(scores: Float[Tensor, "batch anchors columns"]) -> Scores | None:
    """What scores are that find nothing at most places; None for other numbers."""
    rows = scores.flatten(0, 1)
    final = final_of(rows)
    if final == "sigmoid":
        unlikely = float(logits_from(rows, final).amax(dim=1).median()) < _UNLIKELY
        return Scores(final, choice=False) if unlikely else None
    usual = int(rows.argmax(dim=1).mode().values)
    prevails = float((rows.argmax(dim=1) == usual).float().mean()) > 0.8
    if rows.shape[1] > 1 and prevails and usual in (0, rows.shape[1] - 1):
        return Scores(final, choice=True, background=usual)
    unlikely = final == "logits" and float(rows.amax(dim=1).median()) < _UNLIKELY
    return Scores(final, choice=False) if unlikely else None


def _with_coordinates(layout: Pairs, boxes: Tensor, size: Size) -> Pairs | None:
    """The layout with the way by which it decodes boxes; None where these are offsets from unknown places."""
    boxes = boxes.float()
    ordered = float((boxes[:, :, 2:] >= boxes[:, :, :2]).all(dim=2).float().mean()) > 0.99
    largest = (
        float(boxes.abs().flatten().quantile(0.99)) if boxes.numel() < 2**24 else float(boxes.abs().max())
    )
    whole = (float(size[1]), float(size[0]))
    if ordered and largest <= 4 * max(size):
        return replace(layout, scale=whole if largest <= 2 else (1.0, 1.0))
    if bool(((boxes >= 0) & (boxes <= 1)).all()):
        return replace(layout, coordinates="centres", scale=whole)
    for grid, known in _grids(size):
        if len(grid) == boxes.shape[1]:
            return replace(layout, coordinates="offsets", grid=grid, in_pixels=known)
    return None


def _grids(size: Size) -> Iterator[tuple[Grid, bool]]:
    """The anchors of known detectors, and whether their sides are known too."""
    yield grid_of(size, _FACE_STRIDES, _FACE_SIDES, by_anchor=False), True
    yield grid_of(size, _FACE_STRIDES[:3], _RETINA_FACE_SIDES, by_anchor=False), True
    if size in _SSD_STRIDES:
        yield _mixed(size, *_SSD_STRIDES[size]), False
    yield _mixed(size, _LITE_STRIDES, (6,) * 6), False
    yield _mixed(size, _LITE_STRIDES, (3, 6, 6, 6, 6, 6)), False
    for count in (9, 6, 3, 1):
        yield _mixed(size, _PYRAMID_STRIDES, (count,) * 5), False


def _mixed(size: Size, strides: tuple[int, ...], counts: tuple[int, ...]) -> Grid:
    """A grid of nominal anchors, so many at each level."""
    grids = [grid_of(size, (s,), count, by_anchor=False) for s, count in zip(strides, counts, strict=True)]
    return Grid(tuple(level for grid in grids for level in grid.levels), by_anchor=False)
