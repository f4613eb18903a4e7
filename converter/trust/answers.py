"""FP32 against INT8: what each says to the same inputs, and whether it is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrators.data.batches import Batches
from converter.trust.task.base import (
    Agreement,
    Answer,
    Network,
    OutputErrors,
    Outputs,
    Task,
    agreement_of,
)
from converter.trust.task.boxes import FoundBoxes
from engines.base import Engine
from engines.onnxruntime.engine import OnnxRuntimeEngine


@dataclass(frozen=True)
class Answers:
    """What a network says to each input, beside the truth."""

    task: Task
    items: Sequence[Answer]
    truths: Sequence[Any]

    @property
    def accuracy(self) -> float:
        """The task's metric in percent."""
        return self.task.accuracy(self.items, self.truths)

    @property
    def nothing_found(self) -> bool:
        """Whether there is nothing in any input that another network could agree on."""
        return not any(finds_something(self.task, answer) for answer in self.items)

    def agreement(self, other: "Answers") -> Agreement:
        """How often both say the same."""
        return agreement_of(self.task, self.items, other.items)


@dataclass(frozen=True)
class Compared:
    """FP32 and INT8 side by side: their answers' agreement, and the error of each output.

    ``nothing_found``: FP32 found nothing in any input that INT8 could agree on.
    """

    agreement: Agreement
    errors: OutputErrors
    nothing_found: bool


def finds_something(task: Task, answer: Answer) -> bool:
    """Whether there is anything in ``answer`` to agree on; a detector may find no box."""
    return not isinstance(task, FoundBoxes) or len(task.counting(answer)) > 0


def answers(
    network: Network,
    task: Task,
    batches: Batches,
    truths: Sequence[Any],
    on_batch: Callable[[int], None] = lambda _: None,
) -> Answers:
    """The network's answers over all batches, beside ``truths``. ``on_batch`` gets the number of inputs done."""
    items = list[Answer]()
    for x, _ in batches:
        items += task.answers(network(array_of(x)))
        on_batch(len(items))
    return Answers(task, items, truths)


def compare(
    fp32: Network,
    int8: Network,
    task: Task,
    names: Sequence[str],
    batches: Batches,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Compared:
    """Both networks over all batches, one after the other; ``names`` are those of their outputs.

    No more than a batch of outputs is kept.
    """
    errors, both, of, something = OutputErrors(names), list[float](), list[float](), False
    for x, _ in batches:
        inputs = array_of(x)
        before, after = fp32(inputs), int8(inputs)
        ours = task.answers(before)
        found = agreement_of(task, ours, task.answers(after))
        something = something or any(finds_something(task, answer) for answer in ours)
        both += found.both.tolist()
        of += found.of.tolist()
        errors.add(before, after)
        on_batch(len(of))
    return Compared(Agreement(np.array(both), np.array(of)), errors, not something)


def array_of(x: Any) -> NDArray[np.float32]:
    """A tensor as an array, as engines take it."""
    return np.ascontiguousarray(x.cpu().numpy())


def network_of(engine: Engine, positions: Sequence[int] | None = None) -> Network:
    """``engine`` as a function of arrays; one of ONNX Runtime that takes a fixed batch takes any.

    It gives the outputs at ``positions``; all without these.
    """

    def run(x: NDArray[np.float32]) -> Outputs:
        outputs = tuple(engine.infer(x).values())
        return outputs if positions is None else tuple(outputs[position] for position in positions)

    fixed = engine.fixed_batch if isinstance(engine, OnnxRuntimeEngine) else None
    return run if fixed is None else in_parts(run, fixed, fixed)


def in_parts(network: Network, smallest: int, largest: int) -> Network:
    """``network``, which takes batches from ``smallest`` to ``largest`` only, for batches of any size.

    The batch is cut; a part that is too small is filled up with copies of its first input, whose outputs are
    dropped.
    """

    def run(x: NDArray[np.float32]) -> Outputs:
        parts = []
        for start in range(0, len(x), largest):
            part = x[start : start + largest]
            filling = np.repeat(part[:1], max(0, smallest - len(part)), axis=0)
            outputs = network(np.concatenate([part, filling]))
            parts.append([output[: len(part)] for output in outputs])
        return tuple(np.concatenate(some) for some in zip(*parts, strict=True))

    return run
