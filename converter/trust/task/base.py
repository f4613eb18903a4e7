"""What a task is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from converter.trust.task.heads import Heads

TaskName = Literal["classes", "labels", "boxes", "mask", "embedding", "any"]

Outputs = tuple[NDArray[Any], ...]
"""What a network says to a batch: its outputs in their order."""
Tensors = tuple[Tensor, ...]
"""The same in PyTorch."""
Network = Callable[[NDArray[np.float32]], Outputs]
"""A network as a function from (batch, channels, height, width)."""
Answer = Any
"""What one input's outputs mean, as small as the task can say it."""


@runtime_checkable
class Task(Protocol):
    """What the outputs of a network mean.

    ``classes`` is the number of conditions that samples can be made for: 1 for a task without labels. ``measure`` says
    in a few words what ``agreement`` counts, ``metric`` what ``accuracy`` is, None for a task that has none.
    """

    @property
    def name(self) -> TaskName: ...
    @property
    def classes(self) -> int: ...
    @property
    def measure(self) -> str: ...
    @property
    def metric(self) -> str | None: ...

    def describe(self) -> str:
        """A few words for the user, such as "10 classes"."""
        ...

    def training_logits(self, outputs: Tensors) -> Float[Tensor, "batch classes"] | None:
        """Logits of the labels that samples are made for; None for a task without labels."""
        ...

    def heads(self, outputs: Tensors) -> Heads:
        """The outputs as distributions."""
        ...

    def decision_logits(self, outputs: Outputs) -> Float[np.ndarray, "batch classes"] | None:
        """Logits of the one choice that a classifier makes of at least two; None for any other task."""
        ...

    def answers(self, outputs: Outputs) -> Sequence[Answer]:
        """What each input's outputs mean."""
        ...

    def agreement(self, fp32: Answer, int8: Answer) -> tuple[float, float]:
        """How much of FP32's answer INT8 gives as well, and out of how much."""
        ...

    def accuracy(self, answers: Sequence[Answer], truths: Sequence[Any]) -> float:
        """``metric`` in percent. Raises ValueError for a task that has none."""
        ...


@dataclass(frozen=True)
class Agreement:
    """FP32's and INT8's answers to so many inputs: what both say, out of how much; an entry an input."""

    both: NDArray[np.float64]
    of: NDArray[np.float64]

    @property
    def percent(self) -> float:
        """The share of what both say; 100 where neither says anything."""
        total = float(self.of.sum())
        return 100.0 * float(self.both.sum()) / total if total > 0 else 100.0

    @property
    def standard_error(self) -> float:
        """Of ``percent``, over the choice of the inputs."""
        total, count = float(self.of.sum()), len(self.of)
        if total <= 0 or count < 2:
            return 0.0
        apart = self.both - self.percent / 100 * self.of
        return 100.0 * float(np.sqrt(count / (count - 1) * np.square(apart).sum())) / total


def agreement_of(task: Task, fp32: Sequence[Answer], int8: Sequence[Answer]) -> Agreement:
    """How often both give the same answers."""
    found = [task.agreement(a, b) for a, b in zip(fp32, int8, strict=True)]
    both, of = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return Agreement(both, of)


@dataclass
class OutputErrors:
    """Sums over inputs, of which each output's signal-to-noise ratio and mean cosine follow."""

    names: Sequence[str]
    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    inputs: int = 0

    def add(self, fp32: Outputs, int8: Outputs) -> None:
        """Count one batch, as far as the outputs are no choices."""
        for name, a, b in zip(self.names, fp32, int8, strict=True):
            if not np.issubdtype(a.dtype, np.floating):
                continue
            x, y = (values.reshape(len(values), -1).astype(np.float64) for values in (a, b))
            self._add(self.signal, name, np.square(x).sum())
            self._add(self.noise, name, np.square(x - y).sum())
            self._add(self.cosines, name, cosines(x, y).sum())
        self.inputs += len(fp32[0])

    @staticmethod
    def _add(sums: dict[str, float], name: str, value: float) -> None:
        sums[name] = sums.get(name, 0.0) + float(value)

    def sqnr_db(self) -> Mapping[str, float]:
        """Of each output, in dB."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                name: float(10 * np.log10(np.float64(self.signal[name]) / self.noise[name]))
                if self.noise[name] > 0
                else float("inf")
                for name in self.signal
            }

    def cosine(self) -> Mapping[str, float]:
        """Of each output, from -1 to 1, averaged over the inputs."""
        return {name: total / max(1, self.inputs) for name, total in self.cosines.items()}


def cosines(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """The cosine of each two rows; of two that are zero it is 1."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    equal = (a == b).all(axis=1)
    found: NDArray[np.float64] = np.where(
        equal, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    )
    return found
