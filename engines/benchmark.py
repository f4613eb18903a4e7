"""Throughput and latency by trtexec's rules.

Warm-up, then queries one after another for a minimum time and number; one query is one batch. Throughput is
queries by host wall time, times the batch; latency is the time of one ``run`` call, copies included. Engines
that are compared take turns in rounds, so that a machine that slows down slows all of them.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from engines.options import BenchOptions

Clock = Callable[[], float]


@dataclass(frozen=True)
class Throughput:
    """One engine at one batch, in the fields of ``report.json``.

    ``latency_ms`` maps ``median`` and ``p90``, ``p95``, … to milliseconds for a batch.
    """

    engine: str
    precision: str
    batch: int
    images_per_s: float
    latency_ms: Mapping[str, float]
    iterations: int

    def to_json(self) -> dict[str, object]:
        """The report's entry."""
        return asdict(self)


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of the values do not exceed (nearest rank, as trtexec)."""
    rank = math.ceil(percent / 100 * len(sorted_values))
    return sorted_values[max(rank, 1) - 1]


def compare(
    engines: Sequence[Engine], options: BenchOptions, *, clock: Clock = time.perf_counter
) -> list[Throughput]:
    """Throughput of each engine at each of ``options.batches``, batch by batch, engines in the given order.

    The images are standard normal noise from ``options.seed``; speed does not depend on them, since no
    operator of these engines looks at values.
    """
    results = []
    for batch in options.batches:
        runs = [_Queries(engine, _noise(engine, batch, options.seed), clock) for engine in engines]
        for queries in runs:
            queries.warm_up(options.warmup_ms / 1000)
        for _ in range(options.rounds):
            for queries in runs:
                queries.measure(
                    options.duration_s / options.rounds, math.ceil(options.min_iterations / options.rounds)
                )
        results += [queries.result(options.percentiles) for queries in runs]
    return results


def ratios(results: Sequence[Throughput], engines: int) -> list[float]:
    """Throughput of each result of ``compare`` over that of the first of ``engines`` at the same batch."""
    firsts = [results[index - index % engines] for index in range(len(results))]
    return [result.images_per_s / first.images_per_s for result, first in zip(results, firsts, strict=True)]


def _noise(engine: Engine, batch: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((batch, *engine.input_shape), dtype=np.float32)


class _Queries:
    """The measurements of one engine at one batch."""

    def __init__(self, engine: Engine, x: NDArray[np.float32], clock: Clock) -> None:
        self._engine, self._x, self._clock = engine, x, clock
        self._latencies_s: list[float] = []
        self._wall_s = 0.0

    def warm_up(self, seconds: float) -> None:
        """Runs for ``seconds``, at least once."""
        start = self._clock()
        while True:
            self._engine.run(self._x)
            if self._clock() - start >= seconds:
                return

    def measure(self, seconds: float, iterations: int) -> None:
        """Runs for ``seconds`` and at least ``iterations`` times."""
        start = before = self._clock()
        count = 0
        while count < iterations or before - start < seconds:
            self._engine.run(self._x)
            now = self._clock()
            self._latencies_s.append(now - before)
            before = now
            count += 1
        self._wall_s += before - start

    def result(self, percentiles: Sequence[float]) -> Throughput:
        ordered = sorted(self._latencies_s)
        latency = {"median": float(np.median(ordered)) * 1000}
        latency |= {f"p{percent:g}": percentile(ordered, percent) * 1000 for percent in percentiles}
        batch = len(self._x)
        return Throughput(
            engine=self._engine.name,
            precision=self._engine.precision,
            batch=batch,
            images_per_s=len(ordered) * batch / self._wall_s,
            latency_ms=latency,
            iterations=len(ordered),
        )
