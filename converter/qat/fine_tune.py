"""Fine-tuning as one function: graph and ranges in, better ones out, or the same where they can't be made better."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from calibrators.distributed import SINGLE, Ranks
from converter.graph.capture import FoldedGraph
from converter.qat.backends import backend_from_name
from converter.qat.data import Source
from converter.qat.export import graph_from_student
from converter.qat.network import Student, student_from_graph, teacher_from_graph
from converter.qat.options import QATOptions
from converter.qat.training import Score, TuningState, new_state, train_student
from converter.quantize.placement import QuantizationPlan
from converter.trust.task.base import Task


@dataclass(frozen=True)
class FineTuned:
    """The network that was ``kept``: fine-tuned, or as it was where no fine-tuned one was nearer to FP32.

    ``graph`` and ``amax`` (of ``plan.observed``) make the Q/DQ model that computes what ``student`` does. ``ptq`` and
    ``qat`` are the scores on held-out inputs, without and with fine-tuning; ``losses`` has one for each step,
    ``scores`` one for each step at which the student was judged.
    """

    graph: FoldedGraph
    amax: dict[str, float]
    student: Student
    kept: Literal["qat", "ptq"]
    ptq: Score
    qat: Score
    losses: tuple[float, ...]
    scores: Mapping[int, Score]
    seconds: float


def new_tuning(
    graph: FoldedGraph, plan: QuantizationPlan, amax: Mapping[str, float], options: QATOptions
) -> TuningState:
    """The state before the first step: the network that post-training quantization gives.

    Raises QATError where the package of ``options.backend`` is missing.
    """
    student = student_from_graph(graph, plan, amax, options, backend_from_name(options.backend))
    return new_state(student, options)


def fine_tune_graph(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: Mapping[str, float],
    task: Task,
    source: Source,
    options: QATOptions,
    *,
    state: TuningState | None = None,
    on_step: Callable[[TuningState], None] = lambda _: None,
    ranks: Ranks = SINGLE,
) -> FineTuned:
    """``graph`` and the ranges ``amax`` fine-tuned on the inputs of ``source``, with ``graph`` itself as the teacher.

    ``graph`` stays as it is. ``state`` goes on from a run that was stopped; see ``train_student`` for it, for
    ``on_step`` and for ``ranks``. Raises QATError.
    """
    state = state or new_tuning(graph, plan, amax, options)
    state = train_student(
        state, teacher_from_graph(graph, plan), task, source, options, on_step=on_step, ranks=ranks
    )
    ptq = state.scores[0]
    qat = state.scores[state.best_step]
    kept: Literal["qat", "ptq"] = "qat" if qat > ptq else "ptq"
    tuned = graph_from_student(graph, state.student) if kept == "qat" else graph
    ranges = state.student.amax() if kept == "qat" else {name: float(amax[name]) for name in plan.observed}
    return FineTuned(
        tuned, ranges, state.student, kept, ptq, qat, tuple(state.losses), dict(state.scores), state.seconds
    )
