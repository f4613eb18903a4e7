"""What a network does to its logits at the end; training and measuring look through it, the engine keeps it."""

from typing import Literal

import torch
from torch import Tensor

Final = Literal["logits", "log_softmax", "softmax", "sigmoid"]

_SUM = 1e-3
_LEAST = torch.finfo(torch.float32).tiny
_NEAREST_TO_ONE = torch.finfo(torch.float32).eps / 2


def final_of(values: Tensor) -> Final:
    """What made ``values``, whose second axis are classes: they are told by what they add up to and their bounds.

    A single value between 0 and 1 is a sigmoid's. ``values`` are those of several, different inputs.
    """
    values = values.double()
    if values.shape[1] > 1:
        if _all_near_one(values.exp().sum(dim=1)) and bool((values <= 0).all()):
            return "log_softmax"
        if bool((values >= 0).all()) and _all_near_one(values.sum(dim=1)):
            return "softmax"
    return "sigmoid" if bool(((values >= 0) & (values <= 1)).all()) and bool(values.any()) else "logits"


def logits_from(values: Tensor, final: Final) -> Tensor:
    """The logits behind ``values``; behind a softmax they are known up to a constant, which no probability shows."""
    if final == "softmax":
        return values.clamp_min(_LEAST).log()
    if final == "sigmoid":
        return torch.logit(values.clamp(_LEAST, 1 - _NEAREST_TO_ONE))
    return values


def _all_near_one(sums: Tensor) -> bool:
    return bool(((sums - 1).abs() <= _SUM).all())
