"""The layouts in which detectors give their boxes, and how one is recognised."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from converter.trust.task.base import Tensors
from converter.trust.task.box_anchors import Anchors
from converter.trust.task.box_grid import Size
from converter.trust.task.box_maps import joint_maps, split_maps
from converter.trust.task.box_pairs import pairs
from converter.trust.task.box_rows import end_to_end, yolo_rows


@runtime_checkable
class Layout(Protocol):
    """Where in a detector's outputs scores and boxes are.

    ``in_pixels``: boxes are where the network sees them. False for those decoded with nominal anchors.
    """

    @property
    def in_pixels(self) -> bool: ...

    def describe(self) -> str:
        """A few words for the user."""
        ...

    def anchors(self, outputs: Tensors) -> Anchors:
        """Scores and boxes, differentiable."""
        ...


_RECOGNISERS: tuple[Callable[[Tensors, Size], Layout | None], ...] = (
    yolo_rows,
    end_to_end,
    pairs,
    joint_maps,
    split_maps,
)


def layout_from_outputs(outputs: Tensors, size: Size) -> Layout | None:
    """The layout of ``outputs``, those of an input of height and width ``size``; None where none is sure.

    Shapes and values have to fit: that boxes lie at the cells that found them, that there is nothing at most places.
    The input may be any; pictures are best, and noise will do.
    """
    floats = [values for values in outputs if values.is_floating_point() and values.dim() >= 3]
    if len(floats) != len(outputs) or not all(bool(torch.isfinite(values).all()) for values in outputs):
        return None
    with torch.no_grad():
        return next(filter(None, (recognise(outputs, size) for recognise in _RECOGNISERS)), None)
