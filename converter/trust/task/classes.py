"""Classifiers: one choice among classes. One logit is a choice between two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from converter.trust.task.base import Outputs, TaskName, Tensors
from converter.trust.task.final import Final, logits_from
from converter.trust.task.heads import Head, Heads


@dataclass(frozen=True)
class Classes:
    """The output at ``index`` has so many ``columns`` of logits, or what ``final`` makes of them."""

    columns: int
    final: Final = "logits"
    index: int = 0
    name: ClassVar[TaskName] = "classes"
    measure: ClassVar[str] = "same class"
    metric: ClassVar[str | None] = "top-1"

    @property
    def classes(self) -> int:
        """A single column tells two classes apart."""
        return max(2, self.columns)

    def describe(self) -> str:
        behind = "" if self.final == "logits" else f" behind a {self.final.replace('_', '-')}"
        return f"{self.classes} classes{' by one logit' if self.columns == 1 else ''}{behind}"

    def training_logits(self, outputs: Tensors) -> Float[Tensor, "batch classes"]:
        """The logits; a single one stands for class 1 against a logit of 0."""
        values = outputs[self.index]
        logits = logits_from(values.reshape(len(values), self.columns), self.final)
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self.columns == 1 else logits

    def heads(self, outputs: Tensors) -> Heads:
        return (Head("categorical", self.training_logits(outputs)),)

    def decision_logits(self, outputs: Outputs) -> Float[np.ndarray, "batch classes"]:
        """The logits in float64."""
        values = torch.from_numpy(np.ascontiguousarray(outputs[self.index]))
        logits: NDArray[np.float64] = (
            self.training_logits((values,) * (self.index + 1)).numpy().astype(np.float64)
        )
        return logits

    def answers(self, outputs: Outputs) -> Sequence[int]:
        """The class of each input."""
        chosen: list[int] = self.decision_logits(outputs).argmax(axis=1).tolist()
        return chosen

    def agreement(self, fp32: int, int8: int) -> tuple[float, float]:
        return float(fp32 == int8), 1.0

    def accuracy(self, answers: Sequence[int], truths: Sequence[int]) -> float:
        """Percent of the inputs whose label is chosen."""
        return 100.0 * float(np.mean(np.asarray(answers) == np.asarray(truths)))
