"""The fine-tuning itself: it helps, it can be stopped anywhere, and it never ends worse than it began."""

import io
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cudnn

from calibrators.distributed import SINGLE
from converter.errors import QATError
from converter.qat import training
from converter.qat.fine_tune import fine_tune_graph
from converter.qat.network import teacher_from_graph
from converter.qat.options import QATOptions
from converter.qat.training import (
    Score,
    TuningState,
    descend_student,
    expected_of,
    given_up,
    learned_values,
    new_optimizer,
    put,
    score,
    set_rate,
    train_student,
)
from tests.converter.networks import Residual
from tests.converter.qat.cases import OPTIONS, TASK, case, fresh, noise_for

pytestmark = pytest.mark.slow

SOURCE = noise_for(Residual)


class StopError(Exception):
    """Ends a training."""


def saved(state: TuningState) -> Any:
    """The state as a checkpoint's reader gets it."""
    buffer = io.BytesIO()
    torch.save(state.dump(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def trained(state: TuningState, **changes: Any) -> TuningState:
    teacher = teacher_from_graph(*case()[:2])
    return train_student(state, teacher, TASK, SOURCE, replace(OPTIONS, **changes))


def test_fine_tuning_brings_the_network_nearer_to_the_teacher() -> None:
    graph, plan, amax = case()
    before = {name: value.clone() for name, value in graph.module.state_dict().items()}
    tuned = fine_tune_graph(graph, plan, amax, TASK, SOURCE, OPTIONS)
    assert tuned.kept == "qat"
    assert tuned.qat > tuned.ptq
    assert tuned.qat.kl < tuned.ptq.kl
    assert tuned.qat.softened < 0.6 * tuned.ptq.softened
    assert len(tuned.losses) >= OPTIONS.steps // 2
    assert sum(tuned.losses[-5:]) < 0.7 * sum(tuned.losses[:5])
    assert tuned.amax.keys() == set(plan.observed)
    assert any(abs(tuned.amax[name] / amax[name] - 1) > 0.01 for name in plan.observed)
    assert all(torch.equal(value, before[name]) for name, value in graph.module.state_dict().items())


@cache
def whole_run() -> dict[str, Any]:
    return trained(fresh(), steps=10).dump()


@pytest.mark.parametrize("stop_at", [1, 7])
def test_a_stopped_training_goes_on_to_the_same_bits(stop_at: int) -> None:
    state, whole = fresh(), whole_run()

    def stop(state: TuningState) -> None:
        if state.step == stop_at:
            raise StopError

    with pytest.raises(StopError):
        train_student(
            state, teacher_from_graph(*case()[:2]), TASK, SOURCE, replace(OPTIONS, steps=10), on_step=stop
        )
    resumed = fresh()
    resumed.restore(saved(state))
    assert resumed.step == stop_at
    again = trained(resumed, steps=10).dump()
    for part in ("losses", "scores"):
        assert again[part] == whole[part]
    for part in ("learned", "average", "best"):
        assert all(torch.equal(value, whole[part][name]) for name, value in again[part].items()), part


def test_a_training_that_only_does_harm_gives_the_network_back() -> None:
    graph, plan, amax = case()
    tuned = fine_tune_graph(graph, plan, amax, TASK, SOURCE, replace(OPTIONS, learning_rate=1.0, num_bits=8))
    assert tuned.kept == "ptq"
    assert tuned.qat < tuned.ptq
    assert tuned.graph is graph
    assert tuned.amax == {name: amax[name] for name in plan.observed}
    expected = expected_of(teacher_from_graph(graph, plan), SOURCE, SINGLE)
    assert score(tuned.student, expected, TASK, SOURCE, OPTIONS, SINGLE) == tuned.ptq


def test_the_best_values_are_kept_and_not_the_last() -> None:
    graph, plan, _ = case()
    state = fresh()
    marks: list[dict[str, Tensor]] = []
    scores = iter(Score(90.0, -0.2, softened) for softened in (9.0, 2.0, 1.0, 1.0, 3.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "score", lambda *_: next(scores))
        patch.setattr(training, "EVALUATIONS", 4)

        def mark(state: TuningState) -> None:
            marks.append({name: value.clone() for name, value in state.average.items()})

        state.scores[0] = Score(80.0, -1.0, next(scores).softened)
        teacher = teacher_from_graph(graph, plan)
        train_student(state, teacher, TASK, SOURCE, replace(OPTIONS, steps=4), on_step=mark)
    assert list(state.scores) == [0, 1, 2, 3, 4]
    assert state.best_step == 2
    assert all(torch.equal(value, marks[1][name]) for name, value in learned_values(state.student).items())


def test_scores_are_ordered_by_agreement_then_by_divergence() -> None:
    assert Score(99.0, -0.5, 0.0) > Score(98.0, -0.1, 0.0)
    assert Score(99.0, -0.1, 1.0) > Score(99.0, -0.2, 0.0)
    assert Score(99.0, -0.1, 0.0).kl == 0.1


def test_the_score_by_hand() -> None:
    """Of a network that always says the same: all classes alike, the first a trace more."""
    expected = expected_of(teacher_from_graph(*case()[:2]), SOURCE, SINGLE)
    everything = torch.log_softmax(torch.cat([logits for (logits,) in expected]), 1)

    class Uniform(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (torch.zeros(len(x), 5) + torch.eye(5)[0] * 1e-6,)

    found = score(Uniform(), expected, TASK, SOURCE, replace(OPTIONS, temperature=1.0), SINGLE)
    entropy = -(everything.exp() * everything).sum(1).mean()
    assert found.kl == pytest.approx(math.log(5) - float(entropy), rel=1e-3)
    assert found.softened == pytest.approx(found.kl, rel=1e-5)
    assert found.agreement == pytest.approx(100 * float((everything.argmax(1) == 0).float().mean()))


@pytest.mark.parametrize(
    ("losses", "over"), [([9, 8, 7, 6], False), ([9, 2, 3, 3, 3, 4], True), ([1, 9, 9, 9], False)]
)
def test_evaluations_without_a_gain_end_it(losses: list[int], over: bool) -> None:
    state = fresh()
    state.scores = {10 * number: Score(90.0, 0.0, float(value)) for number, value in enumerate(losses)}
    assert given_up(state) is over


def test_the_rates_fall_to_zero() -> None:
    state = fresh()
    rates = []
    for step in (0, 10, 20):
        state.losses = [0.0] * step
        set_rate(state, OPTIONS)
        rates.append([group["lr"] / group["full_rate"] for group in state.optimizer.param_groups])
    assert rates[0] == [1.0] * len(rates[0])
    assert rates[1] == pytest.approx([0.5] * len(rates[1]))
    assert rates[2] == pytest.approx([0.0] * len(rates[2]), abs=1e-9)


def test_a_step_is_relative_to_the_size_of_the_weight() -> None:
    student = fresh().student
    before = learned_values(student)
    optimizer = new_optimizer(student, OPTIONS)
    for value in student.learned().values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    for name, value in student.learned().items():
        of_weights, of_ranges = OPTIONS.rates
        wanted = of_weights * float(before[name].square().mean().sqrt())
        if name.endswith("log_ratio"):
            wanted = of_ranges
        moved = float((before[name] - value.detach()).mean())
        assert moved == pytest.approx(wanted, rel=1e-3), name


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    state = fresh()
    before = learned_values(state.student)
    (logits,) = state.student(SOURCE.inputs(0)[0])
    assert not descend_student(state, (logits * torch.nan).mean(), OPTIONS, SINGLE)[0]
    assert all(torch.equal(value, before[name]) for name, value in learned_values(state.student).items())


def test_steps_are_fast_and_judgements_exact() -> None:
    state, seen = fresh(), []
    state.student.register_forward_hook(lambda *_: seen.append((cudnn.allow_tf32, cudnn.deterministic)))
    state.student.module.register_forward_hook(
        lambda *_: seen.append((cudnn.allow_tf32, cudnn.deterministic))
    )
    trained(state, steps=1)
    exact, fast = (False, True), (True, False)
    judged = [exact] * 2 * len(list(SOURCE.held_out()))  # the whole student and the module in it
    assert seen == [*judged, fast, *judged]


def test_a_loss_that_stays_broken_is_an_error() -> None:
    teacher = teacher_from_graph(*case()[:2])
    with pytest.raises(QATError, match="--qat-lr"):
        train_student(fresh(), teacher, TASK, noise_for(Residual, scale=float("nan")), QATOptions())


def test_values_are_put_where_they_belong() -> None:
    one, other = fresh().student, fresh().student
    with torch.no_grad():
        for value in one.learned().values():
            value.mul_(1.5).add_(0.25)
    put(other, learned_values(one))
    x = SOURCE.inputs(0)[0]
    with torch.no_grad():
        assert torch.equal(*one(x), *other(x))
