"""Entropy (KL) calibration: TensorRT's published scheme, every candidate range in O(128).

Scheme (Migacz, "8-bit inference with TensorRT", GTC 2017, S7310). For each candidate range of ``i`` bins, P
is the histogram with all outliers added to bin ``i - 1``; Q is ``bins[:i]`` merged into 128 levels and spread
evenly over the bins that are not empty. The candidate with the least ``KL(P || Q)`` gives ``amax = i *
bin_width``.

Details follow NVIDIA's open code (``HistogramCalibrator`` of pytorch-quantization and Model-Optimizer):
``bins[0] = bins[1]``, so that exact zeros don't count; candidates from 128 bins up in steps of 1; P and Q are
normalised inside the KL alone, Q without the outliers; of equal candidates the widest; a candidate whose last
bin is empty while outliers exist has an infinite KL, as Q has no mass where P has.

NVIDIA's code rebuilds Q for each candidate in a Python loop over its bins. Here, with ``c`` the counts, ``T``
their sum, ``S`` the sum inside the candidate, ``O = T - S``, and ``m_k``, ``n_k`` the mass and the non-empty
bins of level ``k``,

    KL = [ Σ_j p_j log p_j  -  Σ_k m_k log(m_k / n_k)  -  O log(m_127 / n_127) ] / T  +  log(S / T)

and each term is a difference of cumulative sums of ``c``, ``c > 0`` and ``c log c`` at the bounds of the
levels.

Departures: (1) candidates whose KL differs by less than rounding count as equal, so the choice is the same on
every machine; (2) a candidate with at most one filled bin that leaves out more than half of the values has an
infinite KL. The scheme breaks down where nothing lies in the first bins: a candidate that ends in the first
filled bin has P = Q, a KL of 0, and clips everything (NVIDIA's code even prefers the one before: it is empty,
its KL is NaN, and numpy's argmin takes NaN for the least).
"""

import numpy as np
import numpy.typing as npt

from calibrators.ranges.histogram import Histogram

LEVELS = 128
START_BIN = 128
TIE = 1e-12
"""KLs closer than this are equal: about 100 times the rounding error of the sums."""

CHUNK = 512
"""Candidates at once; their tables of 128 levels stay in the cache."""

Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


def entropy_amax(histogram: Histogram) -> float:
    """Range of least KL divergence, never above the largest value; 0 for a tensor that was all zeros."""
    if histogram.amax == 0:
        return 0.0
    candidates, divergence = entropy_divergences(histogram.counts.cpu().numpy())
    return min(int(candidates[widest_argmin(divergence)]) * histogram.bin_width, histogram.amax)


def widest_argmin(divergence: Doubles) -> int:
    """Index of the last candidate whose divergence is the least, up to ``TIE``."""
    return int(np.flatnonzero(divergence <= divergence.min() + TIE)[-1])


def entropy_divergences(counts: Counts) -> tuple[Counts, Doubles]:
    """Candidates (numbers of bins) and their KL divergence in nats.

    ``counts`` has shape (bins,). Histograms of up to 128 bins have one candidate: the whole.
    """
    bins = counts.astype(np.float64)  # whole numbers, exact up to 2 ** 53
    if len(bins) > 1:
        bins[0] = bins[1]
    candidates = np.arange(min(START_BIN, len(bins)), len(bins) + 1)
    sums = _Sums(bins)
    chunks = [sums.divergence(candidates[at : at + CHUNK]) for at in range(0, len(candidates), CHUNK)]
    return candidates, np.concatenate(chunks)


class _Sums:
    """Cumulative sums of one histogram; entry ``j`` covers ``bins[:j]``."""

    def __init__(self, bins: Doubles) -> None:
        self.bins = bins
        self.mass = _cumulative(bins)
        self.filled = _cumulative((bins > 0).astype(np.float64))
        self.x_log_x = _cumulative(_x_log_x(bins))

    def divergence(self, candidates: Counts) -> Doubles:
        """KL divergence of each candidate."""
        # Level k of a candidate of i bins starts at the first bin j with j >= k * i / 128.
        bounds = (np.arange(LEVELS + 1) * candidates[:, None] + LEVELS - 1) // LEVELS
        mass = np.diff(self.mass[bounds])
        # A filled bin counts 1 or more, so the maximum alters empty levels alone and gives them log 1 = 0.
        log_density = np.log(np.maximum(mass, 1) / np.maximum(np.diff(self.filled[bounds]), 1))
        inside, total, last = self.mass[candidates], self.mass[-1], self.bins[candidates - 1]
        outliers = total - inside
        p_log_p = self.x_log_x[candidates] - _x_log_x(last) + _x_log_x(last + outliers)
        p_log_q = np.einsum("ck,ck->c", mass, log_density) + outliers * log_density[:, -1]
        divergence: Doubles = (p_log_p - p_log_q) / max(total, 1) + np.log(
            np.maximum(inside, 1) / max(total, 1)
        )
        divergence[(outliers > 0) & (last == 0)] = np.inf
        divergence[(outliers > inside) & (self.filled[candidates] <= 1)] = np.inf
        return divergence


def _cumulative(values: Doubles) -> Doubles:
    """Sums of ``values[:j]`` for j from 0 to len(values)."""
    return np.concatenate([np.zeros(1), np.cumsum(values)])


def _x_log_x(x: Doubles) -> Doubles:
    """``x log x`` of whole numbers, 0 at 0."""
    product: Doubles = x * np.log(np.maximum(x, 1.0))
    return product
