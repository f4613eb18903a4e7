"""Options of the generator and its training; free of torch, so that ``--help`` is instant."""

from dataclasses import dataclass, replace

MIN_BATCH = 2
BATCHES = {64 * 64: 64, 96 * 96: 32, 192 * 192: 16}
"""Pixels of an input → samples of a batch for inputs up to so large."""
LARGE_BATCH, LARGE_BATCH_WITHOUT_LABELS = 16, 8
"""Samples of a batch for larger inputs than those of ``BATCHES``."""
BETWEEN_SEEDS = 2**28
"""From the seed of one generator to that of the next, far from the seeds that people choose."""
MOST_GENERATORS = 2**32 // BETWEEN_SEEDS


@dataclass(frozen=True)
class ZSCGANOptions:
    """How the generators are trained, and how their samples are guided.

    ``steps`` are the most that are taken, by all ``generators`` together; each is trained on its own, one after the
    other, and ends earlier once nothing more is gained (``calibrators.zscgan.schedule``). Where their part would be
    fewer than ``least_steps``, or not suffice for all classes, there is one generator alone. A class takes about
    ``samples_per_class`` samples to be learned; a generator that has not as many learns the statistics alone, and its
    samples are guided to classes (``calibrators.zscgan.guidance``) in at most ``guide_steps`` steps: in each, the mean
    change of a pixel is at most ``guide_rate`` (black to white is 1) at every scale. ``guide_steps`` of 0 is a training
    to the labels all the same. ``batch`` of 0 means ``BATCHES``, and ``large_batch`` for inputs of more pixels.
    ``width`` is the number of channels of a generator at a height of 64. ``bn_weight`` multiplies the batch-norm loss,
    ``label_smoothing`` softens the labels. ``window`` is the number of samples over which the batch statistics are
    averaged, ``variety_weight`` multiplies the loss that keeps the samples of a class apart, ``prior_weight`` the one
    that keeps them smooth and soft.

    Where no labels are trained, ``for_labels`` takes one generator and ``LARGE_BATCH_WITHOUT_LABELS``.
    """

    steps: int = 60
    generators: int = 2
    least_steps: int = 60
    batch: int = 0
    large_batch: int = LARGE_BATCH
    latent: int = 64
    width: int = 16
    learning_rate: float = 2e-3
    bn_weight: float = 100.0
    label_smoothing: float = 0.001
    variety_weight: float = 0.5
    prior_weight: float = 15.0
    window: int = 128
    samples_per_class: int = 60
    guide_steps: int = 4
    guide_rate: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"expected --gan-steps of at least 1, got {self.steps}")
        if self.guide_steps < 0:
            raise ValueError(f"expected --guide-steps of at least 0, got {self.guide_steps}")
        if not 1 <= self.generators <= MOST_GENERATORS:
            raise ValueError(
                f"expected between 1 and {MOST_GENERATORS} generators, got generators={self.generators}"
            )
        if self.batch != 0 and self.batch < MIN_BATCH:
            raise ValueError(
                f"expected --gan-batch of at least {MIN_BATCH} (or 0 for the default), got {self.batch}"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"expected --seed between 0 and {2**32 - 1}, got {self.seed}")

    def for_labels(self, labels: int, height: int, width: int, world: int = 1) -> "ZSCGANOptions":
        """Options for a network with so many ``labels``, 1 where samples have none, trained by ``world`` processes."""
        if labels > 1 and self.trains_labels(labels, self.batch_for(height, width)):
            return self
        fits = world == 1 or LARGE_BATCH_WITHOUT_LABELS % (2 * world) == 0
        return replace(
            self,
            generators=1,
            large_batch=LARGE_BATCH_WITHOUT_LABELS if fits else self.large_batch,
        )

    def shares(self, classes: int, batch: int) -> "list[ZSCGANOptions]":
        """The options of each generator alone: its part of the steps, and a seed of its own.

        Where the part of several would be too few steps, or not suffice for all ``classes``, one generator has all.
        """
        alone = [replace(self, generators=1)]
        if self.steps < self.generators * self.least_steps:
            return alone
        several = [
            replace(
                self,
                steps=(self.steps + number) // self.generators,
                generators=1,
                seed=(self.seed + number * BETWEEN_SEEDS) % 2**32,
            )
            for number in range(self.generators)
        ]
        return several if all(part.learns(classes, batch) for part in several) else alone

    def learns(self, classes: int, batch: int) -> bool:
        """Whether a generator has the samples to learn so many classes; of one there is nothing to learn."""
        return classes == 1 or self.steps * batch >= classes * self.samples_per_class

    def trains_labels(self, classes: int, batch: int) -> bool:
        """Whether a generator is trained to its labels: where it can learn them, and where no guidance follows."""
        return self.learns(classes, batch) or not self.guide_steps

    def batch_for(self, height: int, width: int) -> int:
        """Batch size for inputs of this many pixels."""
        fitting = (batch for pixels, batch in BATCHES.items() if height * width <= pixels)
        return self.batch or next(fitting, self.large_batch)
