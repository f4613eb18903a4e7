"""FP32 against INT8: which class each chooses for the same inputs, and whether it is the right one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from calibrators.data.batches import Batches
from engines.base import Engine
from engines.onnxruntime.engine import OnnxRuntimeEngine

Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network as a function from (batch, channels, height, width) to (batch, classes)."""


@dataclass(frozen=True)
class Predictions:
    """The class that a network chooses for each input, beside the label (-1 where it is unknown)."""

    chosen: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def top1(self) -> float:
        """Percent of the inputs whose label is chosen."""
        return percent_equal(self.chosen, self.labels)

    def agreement(self, other: "Predictions") -> float:
        """Percent of the inputs for which both choose the same class."""
        return percent_equal(self.chosen, other.chosen)


def predictions(
    network: Logits, batches: Batches, on_batch: Callable[[int], None] = lambda _: None
) -> Predictions:
    """The network's choices over all batches. ``on_batch`` gets the number of inputs done."""
    chosen, labels, done = [], [], 0
    for x, some_labels in batches:
        chosen.append(chosen_classes(network(np.ascontiguousarray(x.cpu().numpy()))))
        labels.append(some_labels.cpu().numpy())
        done += len(x)
        on_batch(done)
    return Predictions(np.concatenate(chosen), np.concatenate(labels))


def in_parts(network: Logits, smallest: int, largest: int) -> Logits:
    """``network``, which takes batches from ``smallest`` to ``largest`` only, for batches of any size.

    The batch is cut; a part that is too small is filled up with copies of its first input, whose logits are
    dropped.
    """

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = []
        for start in range(0, len(x), largest):
            part = x[start : start + largest]
            filling = np.repeat(part[:1], max(0, smallest - len(part)), axis=0)
            logits.append(network(np.concatenate([part, filling]))[: len(part)])
        return np.concatenate(logits)

    return run


def any_batch(engine: Engine) -> Logits:
    """``engine`` for batches of any size: one of ONNX Runtime may take a fixed one only."""
    fixed = engine.fixed_batch if isinstance(engine, OnnxRuntimeEngine) else None
    return engine.run if fixed is None else in_parts(engine.run, fixed, fixed)


def chosen_classes(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of each row; a single logit decides between 0 and 1 by its sign."""
    if logits.shape[1] == 1:
        return (logits[:, 0] > 0).astype(np.int64)
    chosen: NDArray[np.int64] = np.argmax(logits, axis=1)
    return chosen


def two_sided(logits: Float[np.ndarray, "inputs classes"]) -> NDArray[np.float64]:
    """The logits in float64; a single one stands for class 1 against a logit of 0."""
    wide: NDArray[np.float64] = logits.astype(np.float64)
    return np.concatenate([np.zeros_like(wide), wide], axis=1) if wide.shape[1] == 1 else wide


def percent_equal(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """How many entries are equal, in percent."""
    return 100.0 * float(np.mean(a == b))
