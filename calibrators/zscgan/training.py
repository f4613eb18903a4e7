"""Training the generator against the frozen classifier."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from calibrators.data.batches import send
from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE, Ranks
from calibrators.errors import GeneratorError
from calibrators.kernels import fast_kernels
from calibrators.zscgan.batch_norm import (
    BatchStatistics,
    Moments,
    MovingMoments,
    Target,
    moments_over_ranks,
    targets_from_model,
)
from calibrators.zscgan.generator import ConditionalBatchNorm, Generator, GeneratorConfig
from calibrators.zscgan.layout import fastest_form
from calibrators.zscgan.losses import batch_norm_loss, label_loss, pixel_loss
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.schedule import falling_from, is_over, rate_factor

MAX_GRADIENT_NORM = 1.0
MAX_SKIPPED = 10
"""Steps in a row whose gradients were not finite; one more ends a training."""
SEED_STRIDE = 1_000_003
"""Between the random streams of two seeds; torch's CPU generator looks at the low 32 bits alone."""


@dataclass(frozen=True)
class Step:
    """Losses of one step: batch-norm KL and label cross entropy (above its minimum), in nats."""

    step: int
    bn_kl: float
    label: float


@runtime_checkable
class Resumable(Protocol):
    """A training's state as plain values and tensors, and back."""

    def dump(self) -> dict[str, Any]: ...

    def restore(self, dump: dict[str, Any]) -> None: ...


@dataclass
class TrainingState:
    """All that a training run needs to go on after a stop."""

    generator: Generator
    optimizer: torch.optim.Optimizer
    moving: MovingMoments
    history: list[Step] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history)

    def dump(self) -> dict[str, Any]:
        """Plain values and tensors, for ``torch.save``."""
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "moving": self.moving.state(),
            "history": [(s.step, s.bn_kl, s.label) for s in self.history],
            "seconds": self.seconds,
        }

    def restore(self, dump: dict[str, Any]) -> None:
        """Go on from ``dump``."""
        self.generator.load_state_dict(dump["generator"])
        self.optimizer.load_state_dict(dump["optimizer"])
        self.moving.restore(dump["moving"])
        self.history = [Step(*values) for values in dump["history"]]
        self.seconds = dump["seconds"]


def draw(
    conditions: Int[Tensor, "conditions *parts"],
    latent: int,
    count: int,
    seed: int,
    step: int,
    device: torch.device,
) -> tuple[Float[Tensor, "batch latent"], Int[Tensor, "batch *parts"]]:
    """Latent vectors and conditions (classes, for example) of one step, the same on every device.

    They run evenly through ``conditions``, from an offset that moves on with each step. The random numbers depend on
    seed and step alone, so a resumed run draws what an uninterrupted one would.
    """
    random = torch.Generator().manual_seed((seed * SEED_STRIDE + step) % 2**32)
    z = torch.randn(count, latent, generator=random)
    chosen = conditions[(torch.arange(count) + step * count) % len(conditions)]
    return send(z, device), send(chosen, device)


def draw_pairs(
    config: GeneratorConfig, count: int, seed: int, step: int, device: torch.device
) -> tuple[Float[Tensor, "batch latent"], Int[Tensor, "batch"]]:
    """``draw`` with each label twice in a row, for ``pixel_loss``. An odd ``count`` gives one sample less."""
    classes = config.labels()
    z, _ = draw(classes, config.latent, count - count % 2, seed, step, device)
    _, labels = draw(classes, config.latent, count // 2, seed, step, device)
    return z, labels.repeat_interleave(2)  # by a number, which waits for no GPU


def new_config(spec: InputSpec, classes: int, options: ZSCGANOptions) -> GeneratorConfig:
    """The generator that ``options`` call for."""
    labelled = options.trains_labels(classes, options.batch_for(*spec.shape[1:]))
    return GeneratorConfig(spec, classes, options.latent, options.width, labelled)


def new_state(config: GeneratorConfig, options: ZSCGANOptions, device: torch.device) -> TrainingState:
    """An untrained generator with its optimizer; the weights depend on ``options.seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        generator = Generator(config)
    generator = generator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(generator.parameters(), lr=options.learning_rate, betas=(0.5, 0.999))
    batch = options.batch_for(*config.spec.shape[1:])
    return TrainingState(generator, optimizer, MovingMoments(batch, options.window))


def train_generator(
    teacher: nn.Module,
    spec: InputSpec,
    classes: int,
    options: ZSCGANOptions,
    *,
    state: TrainingState | None = None,
    on_step: Callable[[TrainingState], None] = lambda _: None,
    ranks: Ranks = SINGLE,
) -> TrainingState:
    """One generator whose samples have the teacher's labels and batch-norm statistics (arXiv 2210.14392).

    ``teacher`` is frozen and in eval mode; the generator is trained on its device, on a GPU with ``fast_kernels``.
    ``state`` goes on from an earlier run; ``on_step`` is called after each step, and may save the state or raise to
    stop.

    Each of several ``ranks`` takes its part of every batch, and all get the state that one process alone would
    have, up to rounding; the first rank's ``state`` counts. ``on_step`` has to stop all of them or none.

    Raises GeneratorError if the losses stay NaN or infinite, ValueError for a batch that ``ranks`` can't share.
    """
    device = next(teacher.parameters()).device
    state = state or new_state(new_config(spec, classes, options), options, device)
    teacher, layout = fastest_form(teacher, spec.shape)
    targets = targets_from_model(teacher)
    batch, skipped = options.batch_for(*spec.shape[1:]), 0
    require_even_shares(batch, ranks)
    spread(state, ranks)
    normalise_over(state.generator, ranks)
    state.generator.train()
    with BatchStatistics(teacher) as statistics, fast_kernels():
        while not is_over(state.step, start := falling_start(state, options), options.steps):
            started = time.perf_counter()
            set_learning_rate(state, options, start)
            step, finite = train_step(state, teacher, layout, statistics, targets, options, batch, ranks)
            skipped = 0 if finite else skipped + 1
            if skipped > MAX_SKIPPED:
                raise GeneratorError(
                    f"the generator's loss stayed NaN or infinite for {skipped} steps (at step {state.step}); "
                    "the batch-norm statistics may be broken. Give real images instead: --calib-data DIR"
                )
            state.history.append(step)
            state.seconds += time.perf_counter() - started
            on_step(state)
    spread(state, ranks)  # machines of several kinds may round differently
    normalise_over(state.generator, SINGLE)
    state.generator.eval()
    return state


def train_step(
    state: TrainingState,
    teacher: nn.Module,
    layout: torch.memory_format,
    statistics: BatchStatistics,
    targets: Mapping[str, Target],
    options: ZSCGANOptions,
    batch: int,
    ranks: Ranks,
) -> tuple[Step, bool]:
    """The losses of one step, and whether it was taken, its gradients being finite; ``teacher`` takes ``layout``."""
    device = state.generator.low.device
    z, labels = map(ranks.share, draw_pairs(state.generator.config, batch, options.seed, state.step, device))
    pixels = state.generator.pixels(z, labels)
    logits = teacher(state.generator.inputs(pixels).contiguous(memory_format=layout))
    averages, sound = state.moving.update(moments_over_ranks(moments_of(statistics), ranks))
    bn_kl = batch_norm_loss(averages, targets)
    label = label_loss(logits, labels, options.label_smoothing)
    loss = (
        options.bn_weight * bn_kl
        + (label if state.generator.config.labelled else 0.0)
        + pixel_loss(pixels, state.generator.mean, options.variety_weight, options.prior_weight)
    )
    weights = list(state.generator.parameters())
    read = (bn_kl, ranks.mean(label), sound)
    finite, (kl, nats, kept) = descend(state.optimizer, weights, loss, MAX_GRADIENT_NORM, ranks, read)
    if kept:
        state.moving.keep()
    return Step(state.step, kl, nats), finite


def require_even_shares(batch: int, ranks: Ranks) -> None:
    """Raise ValueError where the pairs of a batch can't be dealt out evenly."""
    step = 2 * ranks.world
    if ranks.world > 1 and batch % step:
        raise ValueError(
            f"expected --gan-batch to be a multiple of {step}, so that {ranks.world} processes get the same number of "
            f"pairs, got {batch}; type for example --gan-batch {-(-batch // step) * step}"
        )


def spread(state: Resumable, ranks: Ranks) -> None:
    """Give every rank the state of the first."""
    if ranks.world > 1:
        state.restore(ranks.from_first(state.dump()))


def normalise_over(generator: Generator, ranks: Ranks) -> None:
    """Have the generator's batch norms count the samples of ``ranks``."""
    for module in generator.modules():
        if isinstance(module, ConditionalBatchNorm):
            module.ranks = ranks


def moments_of(statistics: BatchStatistics) -> dict[str, Moments]:
    """Moments of the last forward pass. Raises GeneratorError where no batch norm ran in it."""
    moments = statistics.moments()
    if not moments:
        raise GeneratorError(
            "expected a batch norm with stored statistics to run in the forward pass, but none did; "
            "give real images instead: --calib-data DIR"
        )
    return moments


def falling_start(state: TrainingState, options: ZSCGANOptions) -> int | None:
    """The step from which the learning rate falls, by the losses so far."""
    bn_kl, label = ([getattr(step, name) for step in state.history] for name in ("bn_kl", "label"))
    if not state.generator.config.labelled:
        label = [0.0] * len(label)
    return falling_from(bn_kl, label, options.steps)


def set_learning_rate(state: TrainingState, options: ZSCGANOptions, start: int | None) -> None:
    """``options.learning_rate``, falling to zero from step ``start`` on."""
    rate = options.learning_rate * rate_factor(state.step, start, options.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate


def descend(
    optimizer: torch.optim.Optimizer,
    weights: Sequence[nn.Parameter],
    loss: Float[Tensor, ""],
    largest_norm: float,
    ranks: Ranks = SINGLE,
    read: Sequence[Shaped[Tensor, ""]] = (),
) -> tuple[bool, list[float]]:
    """Whether one optimizer step down the mean of the ranks' losses was taken, and the values of ``read``.

    Gradients are clipped to ``largest_norm``; where one is not finite, no rank takes the step. The values are read
    together with that: reading is what makes the host wait for a GPU, and it does so once a step, here.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(weights, ranks)
    norm = nn.utils.clip_grad_norm_(weights, largest_norm)
    found, *values = torch.stack([value.detach().to(norm) for value in (norm, *read)]).tolist()
    finite = math.isfinite(found)
    if finite:
        optimizer.step()
    return finite, values


def average_gradients(weights: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Put the mean over the ranks in place of each gradient, all in one message.

    In place of DistributedDataParallel: the generator is small, so there is no work to hide messages behind, and
    DDP would send its buckets in between those of the generator's batch norms and rename the weights in the
    checkpoint.
    """
    if ranks.world == 1:
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    means = ranks.mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, means.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
