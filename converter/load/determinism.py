"""Whether a network answers the same to the same input."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.errors import LoadError
from converter.graph.outputs import tensors_of

AGREEING = 1e-3
"""Up to this part of the largest output, two runs differ by the order of their sums alone."""


def refuse_random(network: Callable[[Tensor], Any], shape: tuple[int, int, int], images: int = 2) -> None:
    """Raise LoadError where ``network`` gives two answers to the same ``images`` images of ``shape``.

    What its forward raises passes; outputs that are no tensors are left to others.
    """
    x = torch.rand(images, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = network(x.clone()), network(x.clone())
    try:
        pairs = list(zip(*map(tensors_of, answers), strict=True))
    except (TypeError, ValueError):
        return
    if any(
        one.shape != other.shape or _differ(one, other) for one, other in pairs if one.is_floating_point()
    ):
        raise LoadError(
            "the network answers differently to the same input, so there is nothing to compare INT8 with: is dropout "
            "left on (F.dropout without training=self.training), or a random layer? Switch it off in eval mode"
        )


def _differ(one: Tensor, other: Tensor) -> bool:
    largest = max(1e-6, float(one.abs().max()))
    return not torch.allclose(one, other, rtol=0, atol=AGREEING * largest, equal_nan=True)
