"""The fine-tuning: the student learns from the teacher, and is judged on held-out inputs meanwhile.

On samples, the classes and their probabilities are soon as good as those of FP32, long before nothing more is gained on
real images. The softened probabilities that the student is trained on still tell, so these decide which values are the
best and when the training ends.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from calibrators.distributed import SINGLE, Ranks
from calibrators.kernels import exact_kernels, fast_kernels
from calibrators.zscgan.schedule import half_cosine
from calibrators.zscgan.training import MAX_SKIPPED, descend, spread
from converter.errors import QATError
from converter.graph.outputs import tensors_of
from converter.qat.data import Source
from converter.qat.losses import mean_squares, noise_to_signal
from converter.qat.network import Student
from converter.qat.options import QATOptions
from converter.trust.task.base import Agreement, Task, agreement_of
from converter.trust.task.heads import distillation_loss, divergence

EVALUATIONS = 10
"""Times that the student is compared with the teacher on held-out inputs in a whole training."""
PATIENCE = 4
"""Of these in a row without a gain end the training."""

Learned = dict[str, Tensor]
"""Values of what the student learns, by name."""
Expected = list[tuple[Tensor, ...]]
"""The teacher's outputs for each held-out batch."""


@dataclass(frozen=True, order=True)
class Score:
    """How near a network is to the teacher: agreement in percent, and minus the mean KL.

    The larger the better: by agreement, where that is the same by KL. ``softened`` is the loss of the distillation, KL
    at the temperature of the training.
    """

    agreement: float
    minus_kl: float
    softened: float = field(compare=False)

    @property
    def kl(self) -> float:
        """Mean KL(teacher || network) of the outputs, in nats."""
        return -self.minus_kl


@dataclass
class TuningState:
    """All that a fine-tuning needs to go on after a stop.

    ``average`` are averaged values, ``best`` those of the best evaluation. ``initial`` are the values of post-training
    quantization, whose score is that of step 0; they don't change.
    """

    student: Student
    optimizer: torch.optim.Optimizer
    initial: Learned
    average: Learned
    best: Learned
    losses: list[float] = field(default_factory=list)
    scores: dict[int, Score] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def best_step(self) -> int:
        """The step whose values are ``best``; 0 before any was judged."""
        judged = [step for step in self.scores if step > 0]
        return min(judged, key=lambda step: (self.scores[step].softened, step), default=0)

    def dump(self) -> dict[str, Any]:
        """Plain values and tensors, for ``torch.save``."""
        return {
            "learned": learned_values(self.student),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "best": self.best,
            "losses": self.losses,
            "scores": {step: (s.agreement, s.minus_kl, s.softened) for step, s in self.scores.items()},
            "seconds": self.seconds,
        }

    def restore(self, dump: dict[str, Any]) -> None:
        """Go on from ``dump``."""
        put(self.student, dump["learned"])
        self.optimizer.load_state_dict(dump["optimizer"])
        for name, value in self.student.learned().items():
            self.average[name] = dump["average"][name].to(value.device)
            self.best[name] = dump["best"][name].to(value.device)
        self.losses, self.seconds = list(dump["losses"]), dump["seconds"]
        self.scores = {step: Score(*values) for step, values in dump["scores"].items()}


def learned_values(student: Student) -> Learned:
    """A copy of what the student has learned."""
    return {name: value.detach().clone() for name, value in student.learned().items()}


@torch.no_grad()
def put(student: Student, values: Mapping[str, Tensor]) -> None:
    """Give the student these values."""
    for name, value in student.learned().items():
        value.copy_(values[name])


def new_state(student: Student, options: QATOptions) -> TuningState:
    """The student before its first step."""
    initial, average, best = (learned_values(student) for _ in range(3))
    return TuningState(student, new_optimizer(student, options), initial, average, best)


def new_optimizer(student: Student, options: QATOptions) -> torch.optim.Optimizer:
    """AdamW without decay whose steps are relative: to the root mean square of a weight, and in log amax.

    A batch norm that was folded leaves weights of very different sizes behind.
    """
    of_weights, of_ranges = options.rates
    groups = []
    for name, value in student.learned().items():
        size = float(value.detach().square().mean().sqrt()) or 1.0
        rate = of_ranges if name.endswith(".log_ratio") else of_weights * size
        groups.append({"params": [value], "lr": rate, "full_rate": rate})
    return torch.optim.AdamW(groups, weight_decay=0.0)


def train_student(
    state: TuningState,
    teacher: fx.GraphModule,
    task: Task,
    source: Source,
    options: QATOptions,
    *,
    on_step: Callable[[TuningState], None] = lambda _: None,
    ranks: Ranks = SINGLE,
) -> TuningState:
    """The student trained to say what ``teacher`` says to the inputs of ``source``.

    It ends with its best values, or with its initial ones where these have the better score.

    ``state`` may be one that was stopped; ``on_step`` is called after each step and may save it, or raise to stop.
    Each of several ``ranks`` takes its part of every batch, and the first rank's ``state`` counts; ``on_step`` has to
    stop all of them or none. Raises QATError if the loss stays NaN or infinite.
    """
    spread(state, ranks)
    expected, skipped = expected_of(teacher, source, ranks), 0
    if not state.scores:
        state.scores[0] = score(state.student, expected, task, source, options, ranks)
    while state.step < options.steps and not given_up(state):
        started = time.perf_counter()
        set_rate(state, options)
        with fast_kernels():
            loss = step_loss(state.student, teacher, task, source, state.step, options, ranks)
            finite, value = descend_student(state, loss, options, ranks)
        skipped = 0 if finite else skipped + 1
        if skipped > MAX_SKIPPED:
            raise QATError(
                f"the loss of the fine-tuning stayed NaN or infinite for {skipped} steps (at step {state.step}); "
                "give a smaller --qat-lr, or leave --qat out"
            )
        state.losses.append(value)
        update_average(state, options)
        if state.step % max(1, options.steps // EVALUATIONS) == 0 or state.step == options.steps:
            evaluate(state, expected, task, source, options, ranks)
        state.seconds += time.perf_counter() - started
        on_step(state)
    improved = state.scores[state.best_step] > state.scores[0]
    put(state.student, state.best if improved else state.initial)
    return state


def given_up(state: TuningState) -> bool:
    """Whether the last evaluations were all no better than one before them."""
    return sum(step > state.best_step for step in state.scores) >= PATIENCE


def set_rate(state: TuningState, options: QATOptions) -> None:
    """The learning rates, falling to zero in a half cosine."""
    factor = half_cosine(state.step, options.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = group["full_rate"] * factor


def step_loss(
    student: Student,
    teacher: fx.GraphModule,
    task: Task,
    source: Source,
    step: int,
    options: QATOptions,
    ranks: Ranks,
) -> Float[Tensor, ""]:
    """The loss of this rank's inputs; its mean over the ranks is that of the whole batch."""
    x, _ = source.inputs(step, ranks)
    with torch.no_grad():
        wanted, wanted_features = teacher(x)
        power = ranks.mean(mean_squares(wanted_features)) if wanted_features else None
    outputs, features = student.features(x)
    loss = distillation_loss(task.heads(outputs), task.heads(tensors_of(wanted)), options.temperature)
    if power is not None and options.feature_weight:
        loss = loss + options.feature_weight * noise_to_signal(features, wanted_features, power)
    return loss


def descend_student(
    state: TuningState, loss: Float[Tensor, ""], options: QATOptions, ranks: Ranks
) -> tuple[bool, float]:
    """Whether the step was taken, and the mean of the ranks' losses; see ``descend``."""
    weights = list(state.student.learned().values())
    finite, (value,) = descend(state.optimizer, weights, loss, options.clip_norm, ranks, [ranks.mean(loss)])
    return finite, value


@torch.no_grad()
def update_average(state: TuningState, options: QATOptions) -> None:
    """Let the averages follow; in the first steps faster, so that the beginning doesn't weigh on them."""
    decay = min(options.ema, state.step / (state.step + 9))
    for name, value in state.student.learned().items():
        state.average[name].lerp_(value, 1 - decay)


def evaluate(
    state: TuningState, expected: Expected, task: Task, source: Source, options: QATOptions, ranks: Ranks
) -> None:
    """Judge the averaged values, and keep them where no earlier ones were as good."""
    now = learned_values(state.student)
    put(state.student, state.average)
    state.scores[state.step] = score(state.student, expected, task, source, options, ranks)
    put(state.student, now)
    if state.best_step == state.step:
        state.best = {name: value.clone() for name, value in state.average.items()}


@torch.no_grad()
@exact_kernels()
def expected_of(teacher: fx.GraphModule, source: Source, ranks: Ranks) -> Expected:
    """What the teacher says to this rank's held-out inputs, batch by batch."""
    return [tensors_of(teacher(x)[0]) for x, _ in source.held_out(ranks)]


@torch.no_grad()
@exact_kernels()
def score(
    student: nn.Module, expected: Expected, task: Task, source: Source, options: QATOptions, ranks: Ranks
) -> Score:
    """The student beside the teacher on all held-out inputs, the same on every rank."""
    sums = (0.0, 0.0, 0.0, 0.0, 0)
    for wanted, (x, _) in zip(expected, source.held_out(ranks), strict=True):
        given = student(x)
        teacher, ours = task.heads(wanted), task.heads(given)
        agreed = agreement_between(task, wanted, given)
        kl = float(divergence(teacher, ours).sum())
        softened = len(x) * float(distillation_loss(ours, teacher, options.temperature))
        found = (float(agreed.both.sum()), float(agreed.of.sum()), kl, softened, len(x))
        sums = tuple(a + b for a, b in zip(sums, found, strict=True))  # type: ignore[assignment]
    both, of, kl, softened, count = (sum(values) for values in zip(*ranks.gathered(sums), strict=True))
    return Score(100.0 * both / of if of else 100.0, -kl / count, softened / count)


def agreement_between(task: Task, teacher: tuple[Tensor, ...], student: tuple[Tensor, ...]) -> Agreement:
    """How often both say the same."""
    one, other = (tuple(value.cpu().numpy() for value in outputs) for outputs in (teacher, student))
    return agreement_of(task, task.answers(one), task.answers(other))
