"""Semantic segmentation: a class for each pixel. One channel is a foreground."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Integer
from numpy.typing import NDArray
from torch import Tensor

from calibrators.data.truths import IGNORED
from converter.errors import LoadError
from converter.trust.task.base import Outputs, TaskName, Tensors
from converter.trust.task.final import Final, logits_from
from converter.trust.task.heads import Head, Heads

MOST_POSITIONS = 64
"""Along each side of a head; it is an estimate, and all pixels would need gigabytes."""


@dataclass(frozen=True)
class Mask:
    """The output at ``index`` has so many ``channels`` of logits, or what ``final`` makes of them.

    ``channels`` of None: the output is behind an ArgMax and holds the classes themselves. What is beside it, such as
    the logits of an auxiliary classifier, doesn't count.
    """

    channels: int | None
    final: Final = "logits"
    index: int = 0
    name: ClassVar[TaskName] = "mask"
    classes: ClassVar[int] = 1
    measure: ClassVar[str] = "mIoU of INT8's masks to FP32's"
    metric: ClassVar[str | None] = "mIoU"

    @property
    def pixel_classes(self) -> int | None:
        """Among which each pixel has one; None where the output doesn't show it."""
        return None if self.channels is None else max(2, self.channels)

    def describe(self) -> str:
        if self.channels is None:
            return "a class a pixel behind an ArgMax"
        behind = "" if self.final == "logits" else f" behind a {self.final.replace('_', '-')}"
        return f"foreground{behind}" if self.channels == 1 else f"{self.channels} classes a pixel{behind}"

    def training_logits(self, outputs: Tensors) -> None:  # noqa: ARG002
        return None

    def heads(self, outputs: Tensors) -> Heads:
        """Every few pixels. Raises LoadError behind an ArgMax, where no error has a size.

        The step is odd, as an upsampling by 2 or 4 repeats itself in even ones.
        """
        if self.channels is None:
            raise LoadError(
                "the network ends in an ArgMax, whose whole numbers don't show how large INT8's error is; give "
                "MODEL without its ArgMax"
            )
        values = self._maps(outputs[self.index])
        down, across = (
            -(-side // MOST_POSITIONS) // 2 * 2 + 1 if side > MOST_POSITIONS else 1
            for side in values.shape[2:]
        )
        values = values[:, :, ::down, ::across]
        logits = logits_from(values, self.final)
        return (Head("binary" if self.channels == 1 else "categorical", logits),)

    def decision_logits(self, outputs: Outputs) -> None:  # noqa: ARG002
        return None

    def answers(self, outputs: Outputs) -> Sequence[Integer[np.ndarray, "height width"]]:
        """The classes of the pixels."""
        values = torch.from_numpy(np.ascontiguousarray(outputs[self.index]))
        if self.channels is None:
            chosen = values.reshape(len(values), *values.shape[-2:])
        elif self.channels == 1:
            chosen = self._maps(values)[:, 0] > (0.5 if self.final == "sigmoid" else 0.0)
        else:
            chosen = values.argmax(dim=1)
        small = self.channels is not None and self.channels <= 256
        return list(chosen.numpy().astype(np.uint8 if small else np.uint16))

    def agreement(self, fp32: NDArray[Any], int8: NDArray[Any]) -> tuple[float, float]:
        """The mean over the classes that either mask has."""
        return _mean_iou(_confusion(fp32, int8, int(max(fp32.max(), int8.max())) + 1)), 1.0

    def accuracy(self, answers: Sequence[NDArray[Any]], truths: Sequence[NDArray[Any]]) -> float:
        """Percent: the mean over the classes of all pixels of all images; IGNORED and negative ones don't count.

        A truth of another size is resized to the answer's. Of two classes, the second may be written as 255.
        """
        classes = 1 + max(int(mask.max()) for mask in (*answers, *(_counting(truth) for truth in truths)))
        written = self.pixel_classes == 2 and not any((truth == 1).any() for truth in truths)
        total = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        for answer, truth in zip(answers, truths, strict=True):
            fitted = _resized(truth, answer.shape)
            counted = np.where(fitted == IGNORED, 1, fitted) if written else _counting(fitted)
            valid = counted >= 0
            total += _confusion(counted[valid], answer[valid], classes + 1)
        return 100.0 * _mean_iou(total)

    def _maps(self, values: Tensor) -> Tensor:
        """With an axis of channels, which a foreground may lack."""
        return values.reshape(len(values), 1, *values.shape[-2:]) if self.channels == 1 else values


def _counting(truth: NDArray[Any]) -> NDArray[np.int64]:
    """A truth with -1 where it doesn't count."""
    wide = truth.astype(np.int64)
    found: NDArray[np.int64] = np.where(wide == IGNORED, -1, wide)
    return found


def _resized(mask: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """By the nearest pixel's centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(mask.shape, shape, strict=True)
    )
    found: NDArray[Any] = mask[rows[:, None], columns[None, :]]
    return found


def _confusion(truth: NDArray[Any], answer: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """How many pixels have each class of ``truth`` (a row) and of ``answer`` (a column)."""
    pairs = truth.astype(np.int64).ravel() * classes + answer.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _mean_iou(confusion: NDArray[np.int64]) -> float:
    """Over the classes that either has; 1 where there is none."""
    both = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return float((both[either > 0] / either[either > 0]).mean()) if either.any() else 1.0
