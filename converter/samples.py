"""Where inputs come from that nobody gave: a trained generator, or procedural images, which need no training."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch

from calibrators.data.batches import Batch, Batches, every, send
from calibrators.data.input_spec import InputSpec
from calibrators.data.procedural import ProceduralBatches
from calibrators.distributed import SINGLE, Ranks
from calibrators.fingerprint import fingerprint
from calibrators.zscgan.guidance import Guide
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator
from calibrators.zscgan.training import SEED_STRIDE

SampleKind = Literal["generator", "procedural", "both"]
"""A trained generator's samples, procedural images, or half of each."""


def kind_of_samples(asked: str, *, bn_layers: int, reused: bool) -> SampleKind:
    """What ``--samples`` stands for, with a ``reused`` generator or without.

    ``auto`` is both, and procedural alone where no batch norm teaches a generator.
    """
    if asked == "procedural" or (asked == "auto" and bn_layers == 0 and not reused):
        return "procedural"
    return "generator" if asked == "zscgan" else "both"


def procedural_among(kind: SampleKind, count: int) -> int:
    """How many of ``count`` samples are procedural images; a generator makes the others."""
    return {"generator": 0, "both": count // 2, "procedural": count}[kind]


@runtime_checkable
class SampleSource(Protocol):
    """Inputs without end; the same calls give the same ones.

    ``key`` is a name for exactly these, by which a training that was stopped knows its inputs again.
    """

    @property
    def name(self) -> Literal["zscgan", "procedural"]: ...
    @property
    def key(self) -> str: ...

    def batches(self, count: int, batch_size: int, seed: int) -> Batches:
        """``count`` inputs; those of different seeds have none in common."""
        ...

    def drawn(self, batch: int, seed: int, place: int, ranks: Ranks = SINGLE) -> Batch:
        """This rank's part of the batch of so many inputs at a ``place``, such as a step of a training."""
        ...


@dataclass(frozen=True)
class GeneratorSamples:
    """Samples of a trained generator, guided to their classes where it has not learned these."""

    trained: TrainedGenerator
    guide: Guide | None = None
    name: Literal["zscgan"] = "zscgan"

    @cached_property
    def key(self) -> str:
        weights = fingerprint(self.trained.generator.state_dict())
        return weights if self.guide is None else f"{weights}, guided {self.guide.key}"

    @property
    def guide_steps(self) -> int:
        """Gradient steps toward the class of each, at most; 0 where there are none."""
        return 0 if self.guide is None else self.guide.steps

    def batches(self, count: int, batch_size: int, seed: int) -> SyntheticBatches:
        return SyntheticBatches(self.trained.generator, count, batch_size, seed, self.guide)

    @torch.no_grad()
    def drawn(self, batch: int, seed: int, place: int, ranks: Ranks = SINGLE) -> Batch:
        generator = self.trained.generator.eval()
        z, conditions = generator.draw(batch, seed, place)
        if self.guide is not None:  # whole batches, whose statistics count
            x, labels = self.guide.samples(generator, z, conditions)
            return ranks.share(x), ranks.share(labels)
        z, conditions = map(ranks.share, (z, conditions))
        return generator(z, conditions), conditions[:, 1]


def are_guided(samples: SampleSource | None) -> bool:
    """Whether each of these takes gradient steps of its own."""
    return isinstance(samples, GeneratorSamples) and samples.guide_steps > 0


@dataclass(frozen=True)
class BothSamples:
    """Samples of a trained generator and procedural images, half and half.

    The ranges of both together are nearer to those of real images (docs/method.md). A generator without labels makes
    few kinds of pictures, all like the training data; the inputs of a detector or an embedding in use are of any kind.
    """

    generated: GeneratorSamples
    procedural: "ProceduralSamples"
    name: Literal["zscgan"] = "zscgan"

    @property
    def key(self) -> str:
        return f"{self.generated.key}, {self.procedural.key}"

    def batches(self, count: int, batch_size: int, seed: int) -> Batches:
        half, drawn = max(1, batch_size // 2), procedural_among("both", count)
        first = self.generated.batches(count - drawn, half, seed)
        return Paired(first, self.procedural.batches(drawn, half, seed)) if drawn else first

    def drawn(self, batch: int, seed: int, place: int, ranks: Ranks = SINGLE) -> Batch:
        source: SampleSource = self.procedural if place % 2 else self.generated
        return source.drawn(batch, seed, place, ranks)


@dataclass(frozen=True)
class Paired:
    """Each batch of one with that of another behind it; ``second`` has as many inputs as ``first``, or one less."""

    first: SyntheticBatches
    second: Batches
    origin: ClassVar[str] = SyntheticBatches.origin

    @property
    def seed(self) -> int:
        return self.first.seed

    @property
    def num_samples(self) -> int:
        return self.first.num_samples + self.second.num_samples

    @property
    def batch_size(self) -> int:
        return self.first.batch_size + self.second.batch_size

    def __iter__(self) -> Iterator[Batch]:
        return self.every(0, 1)

    def every(self, first: int, step: int) -> Iterator[Batch]:
        """Every ``step``-th batch, from the ``first`` on; the others are not made."""
        parts = (every(part, first, step) for part in (self.first, self.second))
        for one, other in zip_longest(*parts):  # the last batch may be of one alone
            x, labels = one
            if other is not None:
                x, labels = (torch.cat([a, b.to(a.device)]) for a, b in zip(one, other, strict=True))
            yield x, labels


@dataclass(frozen=True)
class ProceduralSamples:
    """Procedural images, made on the CPU and used on ``device``."""

    spec: InputSpec
    device: torch.device
    name: Literal["procedural"] = "procedural"

    @property
    def key(self) -> str:
        return f"procedural {self.spec}"

    def batches(self, count: int, batch_size: int, seed: int) -> Batches:
        return ProceduralBatches(self.spec, count, batch_size, seed)

    def drawn(self, batch: int, seed: int, place: int, ranks: Ranks = SINGLE) -> Batch:
        ((x, labels),) = ProceduralBatches(self.spec, batch, batch, (seed * SEED_STRIDE + place) % 2**32)
        return send(ranks.share(x), self.device), ranks.share(labels)


def samples_of_kind(
    kind: SampleKind, generated: GeneratorSamples | None, spec: InputSpec, device: torch.device
) -> SampleSource:
    """The samples of ``kind``; ``generated`` are those that aren't procedural."""
    procedural = ProceduralSamples(spec, device)
    if kind == "procedural":
        return procedural
    assert generated is not None
    return BothSamples(generated, procedural) if kind == "both" else generated
