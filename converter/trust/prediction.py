"""How often INT8 will choose another class than FP32 on real data, and what that costs, estimated without any.

What quantization does to the logits shows on synthetic samples; how sure the classifier is of real images does not:
the samples of some networks have larger margins than images, those of others much smaller ones. So the two are
taken apart. The *margin* of an input is FP32's largest logit less its second largest, and what INT8 *takes* of it is
that margin less the same difference of INT8's logits: INT8 decides otherwise where it takes more than there is. What
it takes is measured on samples, half of them mixed with another one so that they lie between classes as doubtful
images do. The margins of real images are assumed to be spread evenly from 0 to ``width`` standard deviations of an
input's logits, and two classes that are m deviations apart to have probabilities in the ratio ``exp(2 * slope * m)``.
Then a network that takes t of every margin changes the class of ``t / width`` of all images.

How sure a network is differs from one to the next by a factor of forty, and procedural images show it: the surer it is
of these, the surer it is of real images, by a multiple that grows slowly. So ``width`` is ``WIDTH`` times their median
margin, times that margin in nats to the power of ``SURENESS_POWER``. These and ``slope`` come from FP32 networks on
real images (``benchmarks/prediction.py``).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from calibrators.data.batches import Batch, Batches
from calibrators.data.images import UNKNOWN
from calibrators.data.input_spec import InputSpec
from calibrators.data.procedural import ProceduralBatches
from converter.samples import SampleSource
from converter.trust.answers import array_of
from converter.trust.task.base import Network, Task

CONFIDENCE = 95
"""Percent that the intervals aim at."""

Z = 1.96
"""Standard errors on either side of a mean that make ``CONFIDENCE``."""

CLEARER, DIMMER = 4.0, 4.0
"""By how much the ratio of what INT8 takes to the margins of real images may be smaller, and larger, than assumed.

The intervals of all quantizations of six networks in ``benchmarks/prediction.py`` then meet the measured disagreement.
The factors were chosen on these same networks, so for another one ``CONFIDENCE`` is an aim that was not tested. The
ratio is smaller for easy data, whose images are all far from any border, as the example's digits are, and larger for
networks that are often wrong.
"""

TINY = 1e-12

WIDTH, LEAST_WIDTH = 4.5, 0.1
"""The width of the margins of real images, as a multiple of ``sureness`` of procedural images; at least."""
SURENESS_POWER = 0.25
"""Of the margin of procedural images in nats, by which the multiple grows."""


@dataclass(frozen=True)
class KnownError:
    """How far predicted disagreements were from measured ones, in percent points."""

    median: float
    largest: float


KNOWN_ERROR = KnownError(median=0.79, largest=3.54)
"""Of 41 INT8 quantizations of seven networks that change the class of at most 30 % of the images.

By ``benchmarks/prediction.py``.
"""

MOST_INPUTS, BATCHES = 512, 16


def inputs_for(batch: int) -> int:
    """How many inputs a conversion compares networks on: 16 batches of the training, at most 512.

    That is 512 small inputs or 256 large ones.
    """
    return min(MOST_INPUTS, BATCHES * batch)


@dataclass(frozen=True)
class Margins:
    """What is assumed of the margins of real images, in standard deviations of an input's FP32 logits.

    They are spread evenly from 0 to ``width``; the probability that the chosen class is right, less that of the
    second, is ``tanh(slope * margin)``.
    """

    width: float
    slope: float = 1.1


@dataclass(frozen=True)
class Prediction:
    """The report's ``prediction``: disagreement in percent and loss of top-1 in points, with the ends of intervals."""

    disagreement: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    inputs: int
    confidence: int = CONFIDENCE
    known_error: KnownError = KNOWN_ERROR

    def __str__(self) -> str:
        return (
            f"{self.disagreement:.2f} % another class on real data predicted "
            f"({self.low:.2f} to {self.high:.2f}), {self.drop:.2f} points of top-1 lost"
        )


@dataclass(frozen=True)
class BorderBatches:
    """``samples``, every second one mixed with its neighbour in the batch; their labels are then unknown."""

    samples: Batches
    seed: int

    @property
    def num_samples(self) -> int:
        return self.samples.num_samples

    @property
    def batch_size(self) -> int:
        return self.samples.batch_size

    def __iter__(self) -> Iterator[Batch]:
        random = torch.Generator().manual_seed(self.seed)
        for x, y in self.samples:
            yield mixed(x, random), torch.full_like(y, UNKNOWN)


def mixed(
    x: Float[Tensor, "batch channels height width"], random: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Every second input as ``(1 - w) x + w x'``, with the one before it and w evenly from 0 to 1/2.

    Mixtures of valid pixels are valid. The other inputs stay as they are.
    """
    share = torch.rand(len(x), 1, 1, 1, generator=random).to(x.device) / 2
    share[::2] = 0
    return x + share * (x.roll(1, 0) - x)


def procedural_inputs(spec: InputSpec, batch: int, seed: int) -> Batches:
    """The procedural images that show how sure a network is: half as many as networks are compared on, at most 512."""
    return ProceduralBatches(spec, min(MOST_INPUTS, BATCHES * batch // 2), batch, seed)


def margins_from_logits(procedural: Float[np.ndarray, "inputs classes"]) -> Margins:
    """The margins of real images, from FP32's logits of procedural images."""
    return Margins(width=max(LEAST_WIDTH, WIDTH * sureness(procedural)))


def sureness(logits: Float[np.ndarray, "inputs classes"]) -> float:
    """The median margin, in mean deviations of an input's logits, times that in nats to ``SURENESS_POWER``."""
    wide = logits.astype(np.float64)
    nats = float(np.median(margin_between(wide, first_two(wide))))
    return nats / deviation_of(wide) * float(nats**SURENESS_POWER)


def margins_of(fp32: Network, task: Task, procedural: Batches) -> Margins:
    """The margins of real images that are assumed of ``fp32``, which chooses a class."""
    found = []
    for x, _ in procedural:
        logits = task.decision_logits(fp32(array_of(x)))
        assert logits is not None
        found.append(logits)
    return margins_from_logits(np.concatenate(found))


def border_inputs(samples: SampleSource, count: int, batch_size: int, seed: int) -> Batches:
    """``count`` fresh samples of ``seed``, half of them mixed with others so that some lie near borders."""
    return BorderBatches(samples.batches(count, batch_size, seed), seed)


def predict(
    fp32: Network,
    int8: Network,
    task: Task,
    batches: Batches,
    procedural: Batches,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Prediction | None:
    """The prediction from both networks' logits over all batches; ``on_batch`` gets the number of inputs done.

    ``procedural`` are ``procedural_inputs``. None for a task that chooses no class.
    """
    before, after, done = [], [], 0
    for x, _ in batches:
        inputs = array_of(x)
        one, other = task.decision_logits(fp32(inputs)), task.decision_logits(int8(inputs))
        if one is None or other is None:
            return None
        before.append(one)
        after.append(other)
        done += len(inputs)
        on_batch(done)
    margins = margins_of(fp32, task, procedural)
    return predict_from_logits(np.concatenate(before), np.concatenate(after), margins)


def predict_from_logits(
    fp32: Float[np.ndarray, "inputs classes"],
    int8: Float[np.ndarray, "inputs classes"],
    margins: Margins,
) -> Prediction:
    """The prediction from both networks' logits of the same inputs, of at least two classes.

    With t what INT8 takes of an input's margin, in standard deviations and at least 0, and means over the inputs:
    ``disagreement = mean(min(t / width, 1))``; the drop is ``tanh(slope * m) / width`` integrated over the margins m
    up to t, ``mean(log(cosh(slope * min(t, width)))) / (slope * width)``. The interval has these for t / ``CLEARER``
    and for t * ``DIMMER``, less and more the sampling error.
    """
    taken = taken_margins(fp32, int8)
    disagreement, low, high = estimate_with_interval(lambda t: flipped(t, margins), taken)
    drop, drop_low, drop_high = estimate_with_interval(lambda t: lost(t, margins), taken)
    return Prediction(disagreement, low, high, drop, drop_low, drop_high, len(taken))


def taken_margins(
    fp32: Float[np.ndarray, "inputs classes"], int8: Float[np.ndarray, "inputs classes"]
) -> NDArray[np.float64]:
    """How much of each FP32 margin INT8 takes, in mean standard deviations of an input's FP32 logits, at least 0."""
    before, after = fp32.astype(np.float64), int8.astype(np.float64)
    classes = first_two(before)
    taken = margin_between(before, classes) - margin_between(after, classes)
    return np.maximum(taken / deviation_of(before), 0.0)


def first_two(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The second and the first class of each row."""
    return np.argsort(logits, axis=1)[:, -2:]


def deviation_of(logits: NDArray[np.float64]) -> float:
    """The standard deviation of an input's logits, in the mean over the inputs."""
    return max(float(logits.std(axis=1).mean()), TINY)


def margin_between(logits: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logit of the second class in each row of ``classes`` less that of the first; negative if behind."""
    low, high = np.take_along_axis(logits, classes, axis=1).T
    difference: NDArray[np.float64] = high - low
    return difference


def flipped(taken: NDArray[np.float64], margins: Margins) -> NDArray[np.float64]:
    """The share of real images that change their class where INT8 takes so much."""
    return np.minimum(taken / margins.width, 1.0)


def lost(taken: NDArray[np.float64], margins: Margins) -> NDArray[np.float64]:
    """The share of top-1 that is lost where INT8 takes so much."""
    m = margins.slope * np.minimum(taken, margins.width)
    log_cosh: NDArray[np.float64] = m + np.log1p(np.exp(-2 * m)) - log(2)  # cosh(m) itself overflows
    return log_cosh / (margins.slope * margins.width)


def estimate_with_interval(
    share: Callable[[NDArray[np.float64]], NDArray[np.float64]], taken: NDArray[np.float64]
) -> tuple[float, float, float]:
    """The mean of ``share`` in percent and the ends of its interval, from 0 to 100."""
    shares = share(taken)
    error = Z * float(shares.std()) / len(shares) ** 0.5
    low = float(share(taken / CLEARER).mean()) - error
    high = float(share(taken * DIMMER).mean()) + error
    return 100 * float(shares.mean()), 100 * max(0.0, low), 100 * min(1.0, high)
