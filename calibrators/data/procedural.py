"""Procedural images: what stands in for photographs where no generator can be trained and no data is at hand.

Scenes of ``dead_leaves`` in the colours of the input's normalisation, of different brightness and contrast.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from calibrators.data.batches import Batch, made_ahead
from calibrators.data.dead_leaves import random_scene
from calibrators.data.images import UNKNOWN
from calibrators.data.input_spec import InputSpec

MEAN, STD = 0.45, 0.26
"""Of the pixels of photographs, where the normalisation doesn't tell: it may be only a change of units."""

GAIN, BRIGHTNESS, CONTRAST = 1.0, 0.45, 0.3
"""Contrast of the median image, and deviations between images: of the mean and of the contrast's logarithm."""

OVERSHOOT = 0.02
"""The part of the range of pixels by which the darkest and the brightest exceed it and are cut off."""


def procedural_images(
    spec: InputSpec, count: int, seed: int, first: int = 0
) -> Float[Tensor, "count channels height width"]:
    """``count`` normalised images from the number ``first`` on, each of which depends on seed and number alone."""
    pixels = [_pixels(spec, np.random.SeedSequence(seed, spawn_key=(first + i,))) for i in range(count)]
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return (torch.from_numpy(np.stack(pixels)) - mean) / std


@dataclass(frozen=True)
class ProceduralBatches:
    """Procedural images of unknown classes, made while they are iterated; the same ones whatever the batch size."""

    spec: InputSpec
    num_samples: int
    batch_size: int
    seed: int = 0
    origin: ClassVar[Literal["procedural"]] = "procedural"

    def __iter__(self) -> Iterator[Batch]:
        return self.every(0, 1)

    def every(self, first: int, step: int) -> Iterator[Batch]:
        """Each ``step``-th batch from the one with number ``first`` on; no other is made."""
        return made_ahead(
            self._batch, range(first * self.batch_size, self.num_samples, step * self.batch_size)
        )

    def _batch(self, start: int) -> Batch:
        count = min(self.batch_size, self.num_samples - start)
        return procedural_images(self.spec, count, self.seed, start), torch.full((count,), UNKNOWN)


def _pixels(spec: InputSpec, seed: np.random.SeedSequence) -> Float32[np.ndarray, "channels height width"]:
    """One image in [0, 1].

    A logistic curve takes the scene to pixels, as film and cameras do, with the slope that gives small contrasts the
    deviation of the spec. Pixels are whole 255ths as in a file, so that the last bits of a machine's FFT are gone.
    """
    random = np.random.default_rng(seed)
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in _statistics(spec))
    scene = random_scene(random, *spec.shape)
    contrast = GAIN * math.exp(random.normal(0, CONTRAST))
    slope = std / (mean * (1 - mean))
    scene *= -contrast * slope
    scene -= np.log(mean / (1 - mean)) + slope * np.float32(random.normal(0, BRIGHTNESS))
    tone = 255 * (1 + 2 * OVERSHOOT) / (1 + np.exp(scene)) - 255 * OVERSHOOT
    pixels: Float32[np.ndarray, "channels height width"] = np.rint(tone).clip(0, 255) / np.float32(255)
    return pixels


def _statistics(spec: InputSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels of each channel: the spec's where they can be those of images."""
    mean = spec.mean if all(0.1 <= value <= 0.9 for value in spec.mean) else (MEAN,) * spec.shape[0]
    std = spec.std if all(0.1 <= value <= 0.4 for value in spec.std) else (STD,) * spec.shape[0]
    return mean, std
