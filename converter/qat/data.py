"""Where the inputs of the fine-tuning come from: fresh samples of the generator, or real images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.data.batches import Batch, send
from calibrators.data.images import ImageBatches
from calibrators.distributed import SINGLE, Ranks
from calibrators.errors import DataError
from calibrators.zscgan.training import SEED_STRIDE
from converter.qat.options import MOST_STEPS
from converter.samples import SampleSource
from converter.trust.prediction import inputs_for

FIRST_STEP, FIRST_HELD_OUT = MOST_STEPS, 2 * MOST_STEPS
"""Places in the random numbers of a seed (``calibrators.zscgan.training.draw``), behind those of the generator's own
training."""
RATIOS = 2 * MOST_STEPS
"""From a place for samples to the one for the ratios in which these are mixed."""

LEAST_IMAGES = 20


@runtime_checkable
class Source(Protocol):
    """Inputs to train with, and others to judge by. The same calls give the same inputs.

    ``batch`` is the number of inputs of a step, which the ranks share.
    """

    @property
    def name(self) -> str: ...

    @property
    def batch(self) -> int: ...

    def inputs(self, step: int, ranks: Ranks = SINGLE) -> Batch: ...

    def held_out(self, ranks: Ranks = SINGLE) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Samples:
    """Fresh samples in every step; the second of each two is mixed with the first in a random ratio.

    The classifier is sure of the class of almost every sample, and INT8 then says the same whatever it does to the
    rest. Between two samples it is not sure, as with many real images (mixup, arXiv 1710.09412).
    """

    samples: SampleSource
    batch: int
    seed: int

    @property
    def name(self) -> str:
        return self.samples.name

    def inputs(self, step: int, ranks: Ranks = SINGLE) -> Batch:
        """This rank's samples of one step."""
        return self._drawn(FIRST_STEP + step, ranks)

    def held_out(self, ranks: Ranks = SINGLE) -> Iterator[Batch]:
        """This rank's samples among those that no step has."""
        for number in range(-(-inputs_for(self.batch) // self.batch)):
            yield self._drawn(FIRST_HELD_OUT + number, ranks)

    @torch.no_grad()
    def _drawn(self, place: int, ranks: Ranks) -> Batch:
        x, labels = self.samples.drawn(self.batch, self.seed, place, ranks)
        random = torch.Generator().manual_seed((self.seed * SEED_STRIDE + place + RATIOS) % 2**32)
        ratios = torch.rand(self.batch, generator=random)
        return mixed(x, send(ranks.share(ratios), x.device)), labels


def mixed(
    x: Float[Tensor, "batch channels height width"], ratios: Float[Tensor, "batch"]
) -> Float[Tensor, "batch channels height width"]:
    """``x`` with every second input mixed with the one before it; ``ratios`` are its own shares."""
    second = torch.arange(len(x), device=x.device) % 2 == 1
    shares = torch.where(second, ratios, torch.ones_like(ratios)).view(-1, 1, 1, 1)
    return x.roll(1, 0).lerp(x, shares)


def require_enough(images: ImageBatches) -> None:
    """Raise DataError for fewer than ``LEAST_IMAGES``."""
    if images.num_samples < LEAST_IMAGES:
        raise DataError(
            f"expected at least {LEAST_IMAGES} images to fine-tune with, got {images.num_samples}; give --qat-data "
            "more, or leave it out to fine-tune on samples"
        )


@dataclass(frozen=True)
class Images:
    """Real images, each once in every pass; a fifth of them, at most as many as ``inputs_for`` says, is held out."""

    images: ImageBatches
    batch: int
    seed: int
    device: torch.device

    @property
    def name(self) -> str:
        return "images"

    @property
    def _held(self) -> int:
        return min(inputs_for(self.batch), self.images.num_samples // 5)

    def _order(self, number: int) -> list[int]:
        """The images in the random order of a pass; pass -1 chooses those that are held out."""
        random = torch.Generator().manual_seed((self.seed * SEED_STRIDE + number + 1) % 2**32)
        kept = self.images.order if number < 0 else self._order(-1)[self._held :]
        return [kept[place] for place in torch.randperm(len(kept), generator=random).tolist()]

    def inputs(self, step: int, ranks: Ranks = SINGLE) -> Batch:
        """This rank's images of one step; the last of a pass are followed by the first of the next."""
        size = self.images.num_samples - self._held
        first = step * self.batch
        chosen: list[int] = []
        while len(chosen) < self.batch:
            number, start = divmod(first + len(chosen), size)
            chosen += self._order(number)[start : start + self.batch - len(chosen)]
        part = len(chosen) // ranks.world
        return self._read(chosen[ranks.rank * part : (ranks.rank + 1) * part])

    def held_out(self, ranks: Ranks = SINGLE) -> Iterator[Batch]:
        """This rank's part of the images that no step has."""
        chosen = self._order(-1)[: self._held]
        for start in range(ranks.rank * self.batch, len(chosen), ranks.world * self.batch):
            yield self._read(chosen[start : start + self.batch])

    def _read(self, chosen: list[int]) -> Batch:
        (x, labels), *_ = replace(self.images, order=chosen, batch_size=len(chosen))
        return send(x, self.device), labels
