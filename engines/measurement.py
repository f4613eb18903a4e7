"""Figures of a measurement: what one engine gave at one batch, and the statistics behind it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zscgan_common.warning_message import WarningMessage

Clock = Callable[[], float]


@dataclass(frozen=True)
class Throughput:
    """One engine at one batch, in the fields of ``report.json``.

    ``latency_ms`` maps ``median`` and ``p90``, ``p95``, … to milliseconds for a batch. On a GPU, ``parts_ms`` has
    ``enqueue``, ``h2d``, ``gpu_compute`` and ``d2h`` (without the transfers where these were left out), each with
    ``min``, ``max``, ``mean``, ``median`` and the percentiles, and ``warnings`` what limits the figures.
    """

    engine: str
    precision: str
    batch: int
    images_per_s: float
    latency_ms: Mapping[str, float]
    iterations: int
    parts_ms: Mapping[str, Mapping[str, float]] | None = None
    warnings: tuple[WarningMessage, ...] | None = None

    def to_json(self) -> dict[str, object]:
        """The report's entry, without what was not measured."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        if self.warnings is not None:
            found["warnings"] = tuple(map(str, self.warnings))
        return found


@runtime_checkable
class Queries(Protocol):
    """The measurements of one engine at one batch."""

    def warm_up(self, seconds: float) -> None:
        """Runs for ``seconds``, at least once."""
        ...

    def measure(self, seconds: float, iterations: int) -> None:
        """Runs for ``seconds`` and at least ``iterations`` times."""
        ...

    def result(self, percentiles: Sequence[float]) -> Throughput: ...
    def close(self) -> None: ...


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed (nearest rank, as trtexec)."""
    rank = math.ceil(percent * len(sorted_values) / 100)
    return sorted_values[max(rank, 1) - 1]


def summary(values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """``min``, ``max``, ``mean``, ``median`` and ``p90``, … of ``values``."""
    ordered = sorted(values)
    found = {"min": ordered[0], "max": ordered[-1], "mean": fmean(ordered), "median": median(ordered)}
    return found | {f"p{percent:g}": percentile(ordered, percent) for percent in percentiles}


def latency_of(values_ms: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """``latency_ms`` of ``Throughput``: the median and the percentiles."""
    found = summary(values_ms, percentiles)
    return {name: value for name, value in found.items() if name not in {"min", "max", "mean"}}


def noise(batch: int, shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    """Standard normal images (batch, channels, height, width).

    Speed does not depend on them, but for the few operators that give as much as they find (NonMaxSuppression).
    """
    return np.random.default_rng(seed).standard_normal((batch, *shape), dtype=np.float32)
