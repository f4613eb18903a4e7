"""Throughput and latency by trtexec's rules.

Warm-up, then queries for a minimum time and number; one query is one batch. Throughput is queries by host wall
time, times the batch; latency is the time of one query, copies included. Engines that are compared take turns in
rounds, so that a machine that slows down slows all of them. An engine on a GPU times its queries on the GPU
(``engines.tensorrt.queries``); here is the timing of all others, one query after another.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from engines.measurement import Clock, Queries, Throughput, latency_of, noise, percentile
from engines.options import BenchOptions

__all__ = ["Clock", "Throughput", "compare", "percentile", "ratios"]


@runtime_checkable
class _TimesItself(Protocol):
    """An engine with queries of its own."""

    def queries(self, batch: int, options: BenchOptions, clock: Clock) -> Queries: ...


def compare(
    engines: Sequence[Engine],
    options: BenchOptions,
    *,
    clock: Clock = time.perf_counter,
    measuring: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Throughput]:
    """Throughput of each engine at each of ``options.batches``, batch by batch, engines in the given order.

    The images are standard normal noise from ``options.seed``. Each batch is measured, after its warm-up, inside of
    ``measuring()``.
    """
    results = []
    for batch in options.batches:
        with ExitStack() as stack:
            runs = [
                stack.enter_context(closing(_queries(engine, batch, options, clock))) for engine in engines
            ]
            for queries in runs:
                queries.warm_up(options.warmup_ms / 1000)
            with measuring():
                _measure_in_turn(runs, options)
            results += [queries.result(options.percentiles) for queries in runs]
    return results


def _measure_in_turn(runs: Sequence[Queries], options: BenchOptions) -> None:
    for _ in range(options.rounds):
        for queries in runs:
            queries.measure(
                options.duration_s / options.rounds, math.ceil(options.min_iterations / options.rounds)
            )


def ratios(results: Sequence[Throughput], engines: int) -> list[float]:
    """Throughput of each result of ``compare`` over that of the first of ``engines`` at the same batch."""
    firsts = [results[index - index % engines] for index in range(len(results))]
    return [result.images_per_s / first.images_per_s for result, first in zip(results, firsts, strict=True)]


def _queries(engine: Engine, batch: int, options: BenchOptions, clock: Clock) -> Queries:
    if isinstance(engine, _TimesItself):
        return engine.queries(batch, options, clock)
    return _HostQueries(engine, noise(batch, engine.input_shape, options.seed), clock)


class _HostQueries:
    """Queries of an engine that ``infer`` waits for, timed by the host's clock."""

    def __init__(self, engine: Engine, x: NDArray[np.float32], clock: Clock) -> None:
        self._engine, self._x, self._clock = engine, x, clock
        self._latencies_s: list[float] = []
        self._wall_s = 0.0

    def warm_up(self, seconds: float) -> None:
        start = self._clock()
        while True:
            self._engine.infer(self._x)
            if self._clock() - start >= seconds:
                return

    def measure(self, seconds: float, iterations: int) -> None:
        start = before = self._clock()
        count = 0
        while count < iterations or before - start < seconds:
            self._engine.infer(self._x)
            now = self._clock()
            self._latencies_s.append(now - before)
            before = now
            count += 1
        self._wall_s += before - start

    def result(self, percentiles: Sequence[float]) -> Throughput:
        batch = len(self._x)
        return Throughput(
            engine=self._engine.name,
            precision=self._engine.precision,
            batch=batch,
            images_per_s=len(self._latencies_s) * batch / self._wall_s,
            latency_ms=latency_of([seconds * 1000 for seconds in self._latencies_s], percentiles),
            iterations=len(self._latencies_s),
        )

    def close(self) -> None:
        """Nothing to end: the engine is the caller's."""
