"""Histogram of ``|x|`` that grows with the data and forgets in which order the data came.

The collectors of pytorch-quantization and ModelOpt take the bin width from the first batch, so the histogram
depends on which batch came first and how large it was, and it grows without limit. Here the width is always a
power of two. A value is in bin ``floor(|x| / width)``, and a division by a power of two is exact. When a
batch exceeds the range, the width doubles and pairs of bins are merged: ``floor(floor(|x| / w) / 2) =
floor(|x| / 2w)``, exact again. So the result depends on the multiset of values alone, and two histograms can
be merged exactly.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from calibrators.ranges.amax import finite_amax, in_memory_order

NUM_BINS = 4096
LOG2_BINS = 12
MIN_EXPONENT = -126
"""Least width: a normal float32. A tensor of ``MIN_AMAX`` still fills 127 bins of it."""

CPU_CHUNK = 1 << 15
"""Values that are binned at once on a CPU: few enough to stay in the cache and on one thread. Torch would
split more over its threads, which gains little and stalls on a busy machine."""

GPU_CHUNK = 1 << 26


@dataclass(frozen=True)
class Histogram:
    """Counts of ``|x|``: bin ``j`` holds the values in ``[j, j + 1) * bin_width``. ``amax`` is exact.

    From a HistogramCollector it has 2,049 to 4,096 bins, the last one not empty (a single bin where the
    tensor was zero throughout). Raises ValueError for an empty or negative histogram or a bin width that is
    not positive.
    """

    counts: Int[Tensor, "bins"]
    bin_width: float
    amax: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bin_width) and self.bin_width > 0):
            raise ValueError(f"expected a positive bin width, got {self.bin_width}")
        if self.counts.numel() == 0 or int(self.counts.min()) < 0:
            raise ValueError("expected at least one bin and no negative count")

    @classmethod
    def from_counts(cls, counts: Int[Tensor, "bins"], bin_width: float) -> "Histogram":
        """A histogram whose values are gone: ``amax`` is its last edge, or 0 if it holds nothing."""
        return cls(counts, bin_width, len(counts) * bin_width if bool(counts.any()) else 0.0)

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())


class HistogramCollector:
    """Streaming histogram of one named tensor; its memory is 4,096 counts on the tensor's device."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.amax = 0.0
        self._exponent = MIN_EXPONENT  # the width is 2 ** exponent
        self._counts: Tensor | None = None  # int64, so that no count is ever rounded

    def collect(self, x: Float[Tensor, "..."]) -> None:
        """Take in one batch of the tensor. Raises CalibrationError at NaN or infinity."""
        x = in_memory_order(x.detach())
        if x.dtype == torch.float64:
            x = x.float()  # first, as rounding may carry a value over an edge
        batch_amax = finite_amax(x, self.name)
        self._grow(_exponent_for(batch_amax))
        self.amax = max(self.amax, batch_amax)
        counts = self._counts_on(x.device)
        for chunk in torch.split(x, CPU_CHUNK if x.device.type == "cpu" else GPU_CHUNK):
            # Exact: a product with a power of two, and a cast that cuts off. (torch.histc counts in float32,
            # and is five times slower on a CPU.)
            index = torch.mul(chunk.float(), 2.0**-self._exponent).to(torch.int16).abs_()
            counts += torch.bincount(index, minlength=NUM_BINS).to(counts.device)

    def merged(self, other: "HistogramCollector") -> "HistogramCollector":
        """The collector that would have seen the batches of both; neither is changed."""
        result = HistogramCollector(self.name)
        result._exponent = max(self._exponent, other._exponent)
        result.amax = max(self.amax, other.amax)
        for part in (self, other):
            if part._counts is not None:
                counts = _folded(part._counts, result._exponent - part._exponent)
                result._counts_on(counts.device).add_(counts)
        return result

    def histogram(self) -> Histogram:
        """The used part of the histogram, up to the bin of the largest value."""
        width = 2.0**self._exponent
        counts = self._counts_on(torch.device("cpu"))
        return Histogram(counts[: int(self.amax / width) + 1].clone(), width, self.amax)

    def _grow(self, exponent: int) -> None:
        """Double the bin width until it is at least ``2 ** exponent``."""
        if exponent > self._exponent:
            if self._counts is not None:
                self._counts = _folded(self._counts, exponent - self._exponent)
            self._exponent = exponent

    def _counts_on(self, device: torch.device) -> Tensor:
        """The counts, made on ``device`` at first use."""
        if self._counts is None:
            self._counts = torch.zeros(NUM_BINS, dtype=torch.int64, device=device)
        return self._counts


def _exponent_for(amax: float) -> int:
    """Least exponent whose 4,096 bins hold ``amax``: then ``amax`` is in the upper half of the bins."""
    _, exponent = math.frexp(amax)  # amax < 2 ** exponent
    return max(exponent - LOG2_BINS, MIN_EXPONENT) if amax > 0 else MIN_EXPONENT


def _folded(counts: Int[Tensor, "bins"], doublings: int) -> Int[Tensor, "bins"]:
    """Counts for a bin width that was doubled ``doublings`` times; the upper bins become empty."""
    step = 1 << min(doublings, LOG2_BINS)
    sums = counts.view(-1, step).sum(dim=1)
    return torch.nn.functional.pad(sums, (0, NUM_BINS - len(sums)))
