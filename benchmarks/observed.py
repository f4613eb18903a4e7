"""Ranges of all quantized activations from one pass over the samples, and how far they are from the true ones."""

import math
from collections.abc import Mapping
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from calibrators.data.batches import Batches
from calibrators.options import Algorithm, CalibrationOptions
from calibrators.ranges.histogram import Histogram, HistogramCollector
from calibrators.ranges.scales import DEAD_AMAX, MIN_AMAX
from calibrators.ranges.search import amax_from_histogram
from converter.graph.capture import FoldedGraph, observe
from converter.quantize.fake_quant import levels_of
from converter.quantize.placement import QuantizationPlan

CANDIDATES = 512


def histograms(
    graph: FoldedGraph, plan: QuantizationPlan, batches: Batches, device: torch.device
) -> dict[str, Histogram]:
    """The histogram of each tensor in ``plan.observed`` over all batches."""
    collectors = {name: HistogramCollector(name) for name in plan.observed}
    for x, _ in batches:
        for name, value in observe(graph.module, x.to(device), plan.observed)[1].items():
            collectors[name].collect(value)
    return {name: collector.histogram() for name, collector in collectors.items()}


def ranges(seen: Mapping[str, Histogram], algorithm: Algorithm, bits: int = 8) -> dict[str, float]:
    """The range of each tensor for a quantizer of ``bits``; a tensor that was zero gets DEAD_AMAX.

    For 8 bits these are the project's calibrators. ``max`` and ``percentile`` know no bits; ``mse`` has a search
    of its own here, as the project's has 127 levels; ``entropy`` is defined for 8 bits alone. Raises ValueError.
    """
    if bits != 8 and algorithm == "entropy":
        raise ValueError(f"entropy calibration is made for 8 bits, got {bits}; take mse, max or percentile")
    if bits != 8 and algorithm == "mse":
        amax = {name: low_bit_mse_amax(histogram, levels_of(bits)) for name, histogram in seen.items()}
    else:
        options = CalibrationOptions(algorithm=algorithm)
        amax = {name: amax_from_histogram(histogram, options) for name, histogram in seen.items()}
    return {name: value if value >= MIN_AMAX else DEAD_AMAX for name, value in amax.items()}


def low_bit_mse_amax(histogram: Histogram, levels: int) -> float:
    """Range of least squared error with ``levels`` positive levels; at most the largest value.

    Candidates are 512 bin centres in equal ratios, about 1 % apart, from the least that has a bin for each
    level; the values of a bin stand at its centre.
    """
    counts = histogram.counts.cpu().numpy()
    if histogram.amax == 0:
        return 0.0
    steps = np.geomspace(min(levels + 1, len(counts)), len(counts), CANDIDATES)
    candidates = np.unique(steps.astype(np.int64)) - 1
    best = candidates[squared_errors(counts, candidates, levels).argmin()]
    return min((int(best) + 0.5) * histogram.bin_width, histogram.amax)


def squared_errors(
    counts: npt.NDArray[np.int64], candidates: npt.NDArray[np.int64], levels: int
) -> npt.NDArray[np.float64]:
    """Summed squared error for the range up to the centre of each candidate bin, in squared bin widths."""
    centers = np.arange(len(counts)) + 0.5
    errors = []
    for candidate in candidates:
        scale = (candidate + 0.5) / levels
        rounded = np.minimum(np.rint(centers / scale), levels) * scale
        errors.append(float(counts @ (centers - rounded) ** 2))
    return np.array(errors)


def range_errors(amax: Mapping[str, float], true: Mapping[str, float]) -> dict[str, float]:
    """``log2(amax / true amax)`` of each tensor: 1 is a range twice too wide."""
    return {name: math.log2(amax[name] / value) for name, value in true.items()}


def summary(errors: Mapping[str, float]) -> dict[str, float]:
    """Median and largest magnitude, and the median with its sign."""
    magnitudes = [abs(error) for error in errors.values()]
    return {
        "median": median(magnitudes),
        "largest": max(magnitudes),
        "signed_median": median(errors.values()),
    }
