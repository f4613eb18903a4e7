"""Networks of which nothing is known but their outputs: each is compared as it is.

The cosine of two single numbers is 1 whenever they have one sign, so their relative difference takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from converter.trust.task.base import Outputs, TaskName, Tensors, cosines
from converter.trust.task.heads import Head, Heads


@dataclass(frozen=True)
class Anything:
    """Feature maps, images, depths, or whatever else; so many of the outputs are ``numbers``, one an image."""

    name: ClassVar[TaskName] = "any"
    classes: ClassVar[int] = 1
    metric: ClassVar[str | None] = None
    outputs: int = 1
    numbers: int = 0

    @property
    def measure(self) -> str:
        if self.numbers == 0:
            return "cosine of the outputs"
        return "ratio of the outputs" if self.numbers == self.outputs else "cosine or ratio of the outputs"

    def describe(self) -> str:
        return f"{self.outputs} output{'s' if self.outputs > 1 else ''} of any meaning"

    def training_logits(self, outputs: Tensors) -> None:  # noqa: ARG002
        return None

    def heads(self, outputs: Tensors) -> Heads:
        return tuple(
            Head("value", values.reshape(len(values), 1, -1))
            for values in outputs
            if values.is_floating_point()
        )

    def decision_logits(self, outputs: Outputs) -> None:  # noqa: ARG002
        return None

    def answers(self, outputs: Outputs) -> Sequence[tuple[NDArray[Any], ...]]:
        """The outputs themselves."""
        return list(zip(*outputs, strict=True))

    def agreement(
        self, fp32: tuple[NDArray[Any], ...], int8: tuple[NDArray[Any], ...]
    ) -> tuple[float, float]:
        """The mean over the outputs."""
        pairs = [
            (a.astype(np.float64).ravel(), b.astype(np.float64).ravel())
            for a, b in zip(fp32, int8, strict=True)
        ]
        return float(np.mean([_likeness(a, b) for a, b in pairs])), 1.0

    def accuracy(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:  # noqa: ARG002
        raise ValueError("outputs of any meaning have no accuracy")


def _likeness(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """The cosine; of single numbers ``1 - |a - b| / max(|a|, |b|)``, for one sign the smaller over the larger."""
    if a.size > 1:
        return float(cosines(a[None], b[None])[0])
    largest = max(abs(float(a[0])), abs(float(b[0])))
    return 1.0 - abs(float(a[0] - b[0])) / largest if largest > 0 else 1.0
