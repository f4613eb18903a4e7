"""Multi-label classifiers: each label is a yes or no of its own."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from converter.trust.task.base import Outputs, TaskName, Tensors
from converter.trust.task.final import Final, logits_from
from converter.trust.task.heads import Head, Heads

Truth = int | Collection[int] | NDArray[np.bool_]
"""The label of an image, a collection of its labels, or a yes or no for each label."""


@dataclass(frozen=True)
class Labels:
    """The output at ``index`` has a logit, or what ``final`` makes of it, for each of so many ``columns``.

    ``one_known``: of the labels that an image has, the truths name a single one.
    """

    columns: int
    final: Final = "sigmoid"
    index: int = 0
    one_known: bool = False
    name: ClassVar[TaskName] = "labels"
    measure: ClassVar[str] = "same labels"

    @property
    def classes(self) -> int:
        """A label a condition."""
        return self.columns

    @property
    def metric(self) -> str:
        return "known label found" if self.one_known else "micro-F1"

    def describe(self) -> str:
        behind = "" if self.final == "logits" else f" behind a {self.final.replace('_', '-')}"
        return f"{self.columns} independent label{'s' if self.columns > 1 else ''}{behind}"

    def training_logits(self, outputs: Tensors) -> Float[Tensor, "batch classes"]:
        """A logit a label."""
        values = outputs[self.index]
        return logits_from(values.reshape(len(values), self.columns), self.final)

    def heads(self, outputs: Tensors) -> Heads:
        return (Head("binary", self.training_logits(outputs)),)

    def decision_logits(self, outputs: Outputs) -> None:  # noqa: ARG002
        return None

    def answers(self, outputs: Outputs) -> Sequence[Bool[np.ndarray, "columns"]]:
        """The labels that are more probable than not."""
        values = torch.from_numpy(np.ascontiguousarray(outputs[self.index]))
        logits = self.training_logits((values,) * (self.index + 1))
        return list((logits > 0).numpy())

    def agreement(
        self, fp32: Bool[np.ndarray, "columns"], int8: Bool[np.ndarray, "columns"]
    ) -> tuple[float, float]:
        """Whether exactly the same labels are set; also none by both."""
        return float(np.array_equal(fp32, int8)), 1.0

    def accuracy(self, answers: Sequence[Bool[np.ndarray, "columns"]], truths: Sequence[Truth]) -> float:
        """Percent: F1 of all labels of all images together; of one known label, how often it is set."""
        set_by_network, true = np.stack(answers), np.stack([self._vector(truth) for truth in truths])
        found = float((set_by_network & true).sum())
        if self.one_known:
            return 100.0 * found / len(answers)
        total = float(set_by_network.sum() + true.sum())
        return 100.0 * 2 * found / total if total > 0 else 100.0

    def _vector(self, truth: Truth) -> NDArray[np.bool_]:
        if isinstance(truth, np.ndarray):
            return truth
        vector = np.zeros(self.columns, dtype=np.bool_)
        vector[[truth] if isinstance(truth, int) else [int(label) for label in truth]] = True
        return vector
