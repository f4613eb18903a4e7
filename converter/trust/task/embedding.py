"""Embeddings: what counts is the direction of a vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch.nn import functional as F

from converter.trust.task.base import Outputs, TaskName, Tensors, cosines
from converter.trust.task.heads import Head, Heads


@dataclass(frozen=True)
class Embedding:
    """The output at ``index`` is a vector of so many ``columns``, of any length."""

    columns: int
    index: int = 0
    name: ClassVar[TaskName] = "embedding"
    classes: ClassVar[int] = 1
    measure: ClassVar[str] = "cosine"
    metric: ClassVar[str | None] = None

    def describe(self) -> str:
        return f"vectors of {self.columns} values"

    def training_logits(self, outputs: Tensors) -> None:  # noqa: ARG002
        return None

    def heads(self, outputs: Tensors) -> Heads:
        """The vectors at length 1."""
        values = outputs[self.index]
        return (Head("value", F.normalize(values.reshape(len(values), self.columns), dim=1)),)

    def decision_logits(self, outputs: Outputs) -> None:  # noqa: ARG002
        return None

    def answers(self, outputs: Outputs) -> Sequence[Float[np.ndarray, "columns"]]:
        """The vectors themselves."""
        values = outputs[self.index]
        return list(values.reshape(len(values), self.columns))

    def agreement(
        self, fp32: Float[np.ndarray, "columns"], int8: Float[np.ndarray, "columns"]
    ) -> tuple[float, float]:
        """The cosine of both."""
        return float(cosines(fp32[None].astype(np.float64), int8[None].astype(np.float64))[0]), 1.0

    def accuracy(self, answers: Sequence[Any], truths: Sequence[Any]) -> float:  # noqa: ARG002
        raise ValueError("embeddings have no accuracy without pairs to compare")
