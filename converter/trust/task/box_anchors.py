"""What a detector says of each anchor, whatever the layout of its outputs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from converter.trust.task.heads import Head, Heads

FAINT = 0.2
"""A score under which an anchor's box doesn't count."""
_NEAREST_TO_ZERO = -torch.finfo(torch.float32).eps / 2


@dataclass(frozen=True)
class Anchors:
    """Scores, boxes and what boxes were made of.

    ``choice``: the logits are those of one choice among classes, of which ``background`` stands for none of them; else
    they are independent. ``objectness`` multiplies what they say. ``regressions`` are what a box error is measured on.
    ``labels`` are the classes of boxes of which only the best class's score, the one row of ``logits``, is given.
    ``extras`` are further heads.
    """

    logits: Float[Tensor, "batch columns anchors"]
    regressions: Float[Tensor, "batch parts anchors"]
    boxes: Float[Tensor, "batch anchors 4"]
    objectness: Float[Tensor, "batch 1 anchors"] | None = None
    choice: bool = False
    background: int | None = None
    labels: Float[Tensor, "batch anchors"] | None = None
    extras: Heads = ()

    def scores(self) -> Float[Tensor, "batch classes anchors"]:
        """The logit of each class's probability at each anchor, background left out."""
        if not self.choice and self.objectness is None:
            return self.logits
        logs = torch.log_softmax(self.logits, dim=1) if self.choice else F.logsigmoid(self.logits)
        if self.background is not None:
            logs = torch.cat([logs[:, : self.background], logs[:, self.background + 1 :]], dim=1)
        if self.objectness is not None:
            logs = logs + F.logsigmoid(self.objectness)
        return _logit_of_log(logs)

    def heads(self) -> Heads:
        """The choice of the class, whether there is anything, and where it is, where something is."""
        scores = self.scores().detach().sigmoid().amax(dim=1)
        # Thousands of anchors of nothing would outweigh the boxes.
        scores = torch.where(scores >= FAINT, scores, 0.0)
        present = None if self.objectness is None else self.objectness.detach().sigmoid().squeeze(1)
        heads = [Head("categorical" if self.choice else "binary", self.logits, present, soft=False)]
        if self.objectness is not None:
            heads.append(Head("binary", self.objectness, soft=False))
        if self.labels is None:
            return (*heads, Head("value", self.regressions, scores, soft=False), *self.extras)
        # Boxes in the order of their scores: INT8 orders them otherwise, but their mean stays.
        mean = (self.regressions * scores.unsqueeze(1)).sum(dim=2) / scores.sum(
            dim=1, keepdim=True
        ).clamp_min(FAINT)
        return (*heads, Head("value", mean, soft=False), *self.extras)


def _logit_of_log(logs: Tensor) -> Tensor:
    """The logits of probabilities whose logarithms are given.

    log(1 - e^x) is log(-expm1(x)) near 0 and log1p(-e^x) far from it (Maechler, "Accurately computing
    log(1 - exp(-|a|))", 2012).
    """
    logs = logs.clamp_max(_NEAREST_TO_ZERO)
    near = (-torch.expm1(logs)).log()
    far = torch.log1p(-logs.exp())
    return logs - torch.where(logs > -0.693, near, far)
