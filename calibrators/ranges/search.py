"""The range of a tensor from its histogram: ``max``, ``percentile``, ``mse`` and ``entropy``, by name."""

import numpy as np
import numpy.typing as npt

from calibrators.options import CalibrationOptions
from calibrators.ranges.entropy import entropy_amax
from calibrators.ranges.histogram import Histogram
from calibrators.ranges.scales import LEVELS

START_BIN = 128
CHUNK = 512
TIE = 1e-13
"""Squared errors closer than this share of the sum of all squares are equal: the sums are no more exact."""


def amax_from_histogram(histogram: Histogram, options: CalibrationOptions) -> float:
    """Range by the algorithm that ``options`` names; 0 for a tensor that was zero throughout."""
    if options.algorithm == "max":
        return histogram.amax
    if options.algorithm == "percentile":
        return percentile_amax(histogram, options.percentile)
    if options.algorithm == "mse":
        return mse_amax(histogram)
    return entropy_amax(histogram)


def percentile_amax(histogram: Histogram, percentile: float) -> float:
    """Least edge with at least ``percentile`` percent of all values below it, never above the largest value.

    pytorch-quantization and ModelOpt take the lower edge of the bin that reaches the percentile, one bin
    less: that clips more than was asked for, and is 0 where so many values are zero.
    """
    if histogram.amax == 0:
        return 0.0
    below = histogram.counts.cpu().double().cumsum(0).numpy()
    wanted = percentile / 100 * below[-1] * (1 - 1e-12)  # rounding must not ask for one value more
    bin_index = int(np.searchsorted(below, wanted))
    return min((bin_index + 1) * histogram.bin_width, histogram.amax)


def mse_amax(histogram: Histogram) -> float:
    """Range of least mean squared error of INT8 quantization, never above the largest value.

    As in ModelOpt: the values of a bin stand at its centre, the candidates are the centres from bin 128 up,
    and of equal candidates the first wins (here: equal up to rounding). Departures: sums in float64, and
    each candidate costs O(128) through cumulative sums, where ModelOpt quantizes every bin in float32.
    ModelOpt 0.47 hands the number of bits to its quantizer as a bias, so what it minimises is not the error;
    the tests compare with that call corrected.
    """
    if histogram.amax == 0:
        return 0.0
    counts = histogram.counts.cpu().numpy()
    candidates, errors = mse_errors(counts)
    rounding = TIE * float((counts * (np.arange(len(counts)) + 0.5) ** 2).sum())
    first = np.flatnonzero(errors <= errors.min() + rounding)[0]
    return min((int(candidates[first]) + 0.5) * histogram.bin_width, histogram.amax)


def mse_errors(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Candidates (bin indices) and their summed squared error, in units of the squared bin width.

    With scale ``s`` and ``x`` rounded to level ``k``, the error is ``Σ x² - 2 s Σ k x + s² Σ k²``. Level
    ``k`` begins at ``(k - ½) s``, so with tails ``R(k)`` (the sums over all x from there on), ``Σ k x = Σ_k
    R_x(k)`` and ``Σ k² = Σ_k (2k - 1) R_1(k)``. Which level takes a tie does not matter: both err by s/2.
    """
    centers = np.arange(len(counts)) + 0.5
    tail_count, tail_sum = _tail(counts.astype(np.float64)), _tail(counts * centers)
    square_sum = float((counts * centers**2).sum())
    candidates = np.arange(min(START_BIN, len(counts) - 1), len(counts))
    level = np.arange(1, LEVELS + 1)
    errors = []
    for at in range(0, len(candidates), CHUNK):
        scale = centers[candidates[at : at + CHUNK]] / LEVELS
        first_bin = np.ceil((level - 0.5) * scale[:, None] - 0.5).astype(np.int64)
        level_sum = tail_sum[first_bin].sum(axis=1)
        level_squares = tail_count[first_bin] @ (2.0 * level - 1.0)
        errors.append(square_sum - 2 * scale * level_sum + scale**2 * level_squares)
    return candidates, np.concatenate(errors)


def _tail(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sums of ``values[j:]`` for j from 0 to len(values)."""
    return np.concatenate([np.cumsum(values[::-1])[::-1], np.zeros(1)])
