"""What test_ranks.py runs alone and by two processes: ``python -m tests.converter.qat.ranked RANK WORLD FOLDER``.

The results of each rank go to ``FOLDER/RANK.pt``.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from calibrators.distributed import Ranks
from converter.qat.network import teacher_from_graph
from converter.qat.training import descend_student, step_loss, train_student
from tests.converter.networks import Perceptron
from tests.converter.qat import double
from tests.converter.qat.cases import OPTIONS, TASK, case, fresh, noise_for

# The double is imported in no time.
STEPS = replace(OPTIONS, steps=4, num_bits=8, backend="pytorch-quantization")


def first_step(ranks: Ranks) -> dict[str, Any]:
    """Loss and unclipped gradients of one step."""
    graph, plan, _ = case(Perceptron)
    state = fresh(STEPS, Perceptron)
    teacher = teacher_from_graph(graph, plan)
    loss = step_loss(state.student, teacher, TASK, noise_for(Perceptron), 0, STEPS, ranks)
    descend_student(state, loss, replace(STEPS, clip_norm=float("inf")), ranks)
    gradients = {name: value.grad for name, value in state.student.learned().items()}
    return {"loss": ranks.mean(loss), "gradients": gradients}


def whole_run(ranks: Ranks) -> dict[str, Any]:
    """The state after all steps. The other ranks begin with other values, which must not matter."""
    graph, plan, _ = case(Perceptron)
    state = fresh(STEPS, Perceptron)
    if not ranks.first:
        with torch.no_grad():
            for value in state.student.learned().values():
                value.mul_(3)
    return train_student(
        state, teacher_from_graph(graph, plan), TASK, noise_for(Perceptron), STEPS, ranks=ranks
    ).dump()


def main(rank: int, world: int, folder: Path) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    ranks = Ranks(rank, world)
    ranks.join(distributed.FileStore(str(folder / "store"), world))
    with pytest.MonkeyPatch.context() as patch:
        double.install(patch)
        results = {"first step": first_step(ranks), "whole run": whole_run(ranks)}
    torch.save(results, folder / f"{rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
