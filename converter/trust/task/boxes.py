"""Detectors: boxes with a score and a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from converter.trust.task.base import Outputs, TaskName, Tensors
from converter.trust.task.box_anchors import Anchors
from converter.trust.task.box_layouts import Layout
from converter.trust.task.heads import Heads
from converter.trust.task.mean_precision import mean_average_precision

LEAST_SCORE = 0.001
"""mAP asks for boxes of every score."""
NMS_IOU = 0.45
MATCH_IOU = 0.5
MOST_BOXES = 300
_MOST_CANDIDATES = 3000


class FoundBoxes:
    """What detectors have in common, however their boxes are decoded.

    An answer is ``[boxes, 6]``: x1, y1, x2, y2, score, class, the best first, those of low scores too, for mAP asks
    for them. Those with a score of ``threshold`` or more are what FP32 and INT8 have to agree on.
    """

    threshold: float
    name: ClassVar[TaskName] = "boxes"
    classes: ClassVar[int] = 1
    measure: ClassVar[str] = f"same boxes (IoU {MATCH_IOU})"

    def training_logits(self, outputs: Tensors) -> None:  # noqa: ARG002
        return None

    def decision_logits(self, outputs: Outputs) -> None:  # noqa: ARG002
        return None

    def counting(self, boxes: Float[np.ndarray, "_ 6"]) -> Float[np.ndarray, "counting 6"]:
        """Those that FP32 and INT8 have to agree on."""
        return boxes[boxes[:, 4] >= self.threshold]

    def agreement(
        self, fp32: Float[np.ndarray, "_ 6"], int8: Float[np.ndarray, "_ 6"]
    ) -> tuple[float, float]:
        """Boxes of either that the other finds as well, and all boxes of both."""
        a, b = map(self.counting, (fp32, int8))
        return 2.0 * matches(a, b), float(len(a) + len(b))


@dataclass(frozen=True)
class Boxes(FoundBoxes):
    """A detector whose outputs have a known layout."""

    layout: Layout
    threshold: float = 0.25

    @property
    def metric(self) -> str | None:
        """None where boxes are not where the network sees them."""
        return "mAP" if self.layout.in_pixels else None

    def describe(self) -> str:
        return f"boxes: {self.layout.describe()}"

    def heads(self, outputs: Tensors) -> Heads:
        return self.layout.anchors(outputs).heads()

    def answers(self, outputs: Outputs) -> Sequence[Float[np.ndarray, "_ 6"]]:
        """Up to 300 boxes of each input, after NMS of each class."""
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(values)) for values in outputs)
        with torch.no_grad():
            anchors = self.layout.anchors(tensors)
            scores = anchors.scores().sigmoid()
        return [_strongest(anchors, scores, image).numpy() for image in range(len(scores))]

    def accuracy(
        self, answers: Sequence[Float[np.ndarray, "_ 6"]], truths: Sequence[Shaped[np.ndarray, "_ 5"]]
    ) -> float:
        """mAP@[.5:.95] in percent; truths are x1, y1, x2, y2, class, in pixels of the network's input."""
        if self.metric is None:
            raise ValueError(f"{self.describe()}: nominal boxes have no accuracy")
        return mean_average_precision(answers, truths)


def _strongest(
    anchors: Anchors, scores: Float[Tensor, "batch classes anchors"], image: int
) -> Float[Tensor, "boxes 6"]:
    """An image's answer."""
    from torchvision.ops import batched_nms

    flat = scores[image].flatten()
    chosen = (flat >= LEAST_SCORE).nonzero().squeeze(1)
    if len(chosen) > _MOST_CANDIDATES:
        chosen = chosen[flat[chosen].topk(_MOST_CANDIDATES).indices]
    at = chosen % scores.shape[2]
    found, values = anchors.boxes[image, at], flat[chosen]
    named = chosen // scores.shape[2] if anchors.labels is None else anchors.labels[image, at]
    finite = torch.isfinite(found).all(dim=1)
    found, values, named = found[finite], values[finite], named[finite]
    if anchors.labels is None:
        kept = batched_nms(found, values, named, NMS_IOU)[:MOST_BOXES]
    else:
        kept = values.argsort(descending=True, stable=True)[:MOST_BOXES]
    return torch.cat([found[kept], values[kept, None], named[kept, None].to(found)], dim=1)


def matches(a: Float[np.ndarray, "_ 6"], b: Float[np.ndarray, "_ 6"]) -> int:
    """How many boxes of both are the same: the strongest of ``a`` is first to take what it overlaps most in ``b``.

    Boxes are the same that have one class and an IoU of at least 0.5; none is taken twice.
    """
    from torchvision.ops import box_iou

    overlap = box_iou(torch.from_numpy(a[:, :4]), torch.from_numpy(b[:, :4])).numpy()
    overlap = np.where(a[:, None, 5] == b[None, :, 5], overlap, 0.0)
    found = 0
    for row in np.argsort(-a[:, 4], kind="stable"):
        best = int(overlap[row].argmax()) if len(b) else -1
        if best >= 0 and overlap[row, best] >= MATCH_IOU:
            overlap[:, best] = 0.0
            found += 1
    return found
