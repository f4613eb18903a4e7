"""Networks of which nothing is known but their outputs: each is compared as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from converter.trust.task.base import Outputs, TaskName, Tensors, cosines
from converter.trust.task.heads import Head, Heads


@dataclass(frozen=True)
class Anything:
    """Feature maps, images, depths, or whatever else."""

    name: ClassVar[TaskName] = "any"
    classes: ClassVar[int] = 1
    measure: ClassVar[str] = "cosine of the outputs"
    metric: ClassVar[str | None] = None
    outputs: int = 1

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
        """The mean cosine."""
        found = [
            float(cosines(a.reshape(1, -1).astype(np.float64), b.reshape(1, -1).astype(np.float64))[0])
            for a, b in zip(fp32, int8, strict=True)
        ]
        return float(np.mean(found)), 1.0

    def accuracy(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:  # noqa: ARG002
        raise ValueError("outputs of any meaning have no accuracy")
