"""Where inputs come from that nobody gave: a trained generator, or procedural images, which need no training."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch

from calibrators.data.batches import Batch, Batches, send
from calibrators.data.input_spec import InputSpec
from calibrators.data.procedural import ProceduralBatches
from calibrators.distributed import SINGLE, Ranks
from calibrators.fingerprint import fingerprint
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator
from calibrators.zscgan.training import SEED_STRIDE


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
    """Samples of a trained generator."""

    trained: TrainedGenerator
    name: Literal["zscgan"] = "zscgan"

    @cached_property
    def key(self) -> str:
        return fingerprint(self.trained.generator.state_dict())

    def batches(self, count: int, batch_size: int, seed: int) -> Batches:
        return SyntheticBatches(self.trained.generator, count, batch_size, seed)

    @torch.no_grad()
    def drawn(self, batch: int, seed: int, place: int, ranks: Ranks = SINGLE) -> Batch:
        generator = self.trained.generator.eval()
        z, conditions = map(ranks.share, generator.draw(batch, seed, place))
        return generator(z, conditions), conditions[:, 1]


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
