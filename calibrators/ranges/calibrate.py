"""Calibration: run the network over the batches, watch the named activations, choose a range for each."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.data.batches import Batches, every
from calibrators.distributed import SINGLE, Ranks
from calibrators.errors import CalibrationError
from calibrators.kernels import exact_kernels
from calibrators.options import CalibrationOptions
from calibrators.ranges.amax import AmaxCollector
from calibrators.ranges.histogram import HistogramCollector
from calibrators.ranges.scales import DEAD_AMAX, MIN_AMAX
from calibrators.ranges.search import amax_from_histogram

Observe = Callable[[Tensor], Mapping[str, Tensor]]
Collectors = dict[str, AmaxCollector | HistogramCollector]

VALUES_AT_ONCE = 1 << 28
"""Values of all activations together that a CPU holds: a deep network has 40 million for each input."""


@dataclass(frozen=True)
class CalibrationResult:
    """A range for each tensor, each with a scale that float32 can hold.

    ``dead`` names the tensors that were zero on every sample (or below ``MIN_AMAX``, too small for a scale);
    their amax is ``DEAD_AMAX``. ``samples`` is the number of inputs that were run.
    """

    amax: dict[str, float]
    dead: tuple[str, ...]
    samples: int


@dataclass(frozen=True)
class Observed:
    """What ``samples`` inputs made of each tensor: all that any algorithm needs to choose its range."""

    collectors: Collectors
    samples: int


def calibrate(
    observe: Observe,
    batches: Batches,
    *,
    options: CalibrationOptions,
    on_batch: Callable[[int], None] | None = None,
    ranks: Ranks = SINGLE,
) -> CalibrationResult:
    """Ranges of the activations that ``observe`` returns by name, over at most ``options.samples`` inputs.

    The result does not depend on the batch size or the order of the batches. ``on_batch`` gets the number of
    inputs done so far after each batch. Raises CalibrationError where there are no inputs, no activations, or
    activations that are NaN or infinite.

    Several ``ranks`` observe the batches in turn and choose the ranges in turn; all of them get the same result,
    the one that a single process gets. All batches but the last must then be of ``batch_size``.
    """
    collector = AmaxCollector if options.algorithm == "max" else HistogramCollector
    observed = observe_over(
        observe, batches, options.samples, collector=collector, on_batch=on_batch, ranks=ranks
    )
    return ranges_from_observed(observed, options, ranks)


def observe_over(
    observe: Observe,
    batches: Batches,
    limit: int,
    *,
    collector: type[AmaxCollector | HistogramCollector] = HistogramCollector,
    on_batch: Callable[[int], None] | None = None,
    ranks: Ranks = SINGLE,
) -> Observed:
    """The activations of at most ``limit`` inputs, collected; see ``calibrate``.

    A ``HistogramCollector`` serves every algorithm, an ``AmaxCollector`` only ``max``.
    """
    collectors: Collectors = {}
    samples = at_once = 0
    with torch.no_grad(), exact_kernels(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for x, done in _first_samples(batches, limit, ranks):
            at_once = at_once or _inputs_at_once(observe, x)
            for some in x.split(at_once):
                _collect(observe(some), collectors, collector, pool)
            samples += len(x)
            if on_batch is not None:
                on_batch(done)
    collectors, samples = _merged(ranks.gathered(collectors)), sum(ranks.gathered(samples))
    if samples == 0:
        raise CalibrationError(
            "expected calibration data, got no inputs; check --calib-data and --calib-samples"
        )
    if not collectors:
        raise CalibrationError(
            "expected activations to calibrate, got none: the network has no layer to quantize"
        )
    return Observed(collectors, samples)


def _inputs_at_once(observe: Observe, x: Float[Tensor, "batch channels height width"]) -> int:
    """How many inputs are run together: on a CPU so many that all their activations are ``VALUES_AT_ONCE``."""
    activations = observe(x[:1]).values()
    if any(activation.device.type != "cpu" for activation in activations):
        return len(x)
    return max(1, VALUES_AT_ONCE // max(1, sum(map(Tensor.numel, activations))))


def _collect(
    activations: Mapping[str, Tensor],
    collectors: Collectors,
    collector: type[AmaxCollector | HistogramCollector],
    pool: ThreadPoolExecutor,
) -> None:
    """Let each activation's collector take it in. On a CPU a collector keeps to one thread, so several work at once."""
    for name in activations:
        if name not in collectors:
            collectors[name] = collector(name)
    on_cpu = all(activation.device.type == "cpu" for activation in activations.values())
    run = pool.map if on_cpu else map
    for _ in run(lambda name: collectors[name].collect(activations[name]), activations):
        pass  # raises what a collector raised


def ranges_from_observed(
    observed: Observed, options: CalibrationOptions, ranks: Ranks = SINGLE
) -> CalibrationResult:
    """The ranges that the algorithm of ``options`` chooses; ``ranks`` choose in turn."""
    collectors = observed.collectors
    ours = {name: _amax(collectors[name], options) for name in list(collectors)[ranks.rank :: ranks.world]}
    everyones = {name: amax for part in ranks.gathered(ours) for name, amax in part.items()}
    chosen = {name: everyones[name] for name in collectors}
    dead = tuple(name for name, amax in chosen.items() if amax < MIN_AMAX)
    return CalibrationResult(chosen | dict.fromkeys(dead, DEAD_AMAX), dead, observed.samples)


def _merged(parts: list[Collectors]) -> Collectors:
    """The collectors that would have seen what all ``parts`` have. A part is empty where batches were few."""
    merged: Collectors = {}
    for part in parts:
        for name, collector in part.items():
            merged[name] = _both(merged[name], collector) if name in merged else collector
    return merged


def _both(
    one: AmaxCollector | HistogramCollector, other: AmaxCollector | HistogramCollector
) -> AmaxCollector | HistogramCollector:
    if isinstance(one, HistogramCollector):
        assert isinstance(other, HistogramCollector)
        return one.merged(other)
    both = AmaxCollector(one.name)
    both.amax = max(one.amax, other.amax)
    return both


def _amax(collector: AmaxCollector | HistogramCollector, options: CalibrationOptions) -> float:
    """The range that a collector's values call for; 0 where they were all zero."""
    if isinstance(collector, AmaxCollector):
        return collector.amax
    return amax_from_histogram(collector.histogram(), options)


def _first_samples(
    batches: Batches, limit: int, ranks: Ranks
) -> Iterator[tuple[Float[Tensor, "batch channels height width"], int]]:
    """This rank's inputs among those up to ``limit``, each with the number of inputs up to its end.

    The last batch is cut, and none is drawn in vain.
    """
    limit, done = min(limit, batches.num_samples), 0
    if limit < 1:
        return
    if ranks.world > 1:
        yield from _every_nth(batches, limit, ranks)
        return
    for x, _ in batches:
        some = x[: limit - done]
        done += len(some)
        if len(some) > 0:
            yield some, done
        if done >= limit:
            return


def _every_nth(
    batches: Batches, limit: int, ranks: Ranks
) -> Iterator[tuple[Float[Tensor, "batch channels height width"], int]]:
    """``_first_samples`` of one of several ranks, from batches of one size."""
    size = batches.batch_size
    drawn = every(batches, ranks.rank, ranks.world)
    ours = range(ranks.rank * size, limit, ranks.world * size)
    for start, (x, _) in zip(ours, drawn, strict=False):
        some = x[: limit - start]
        yield some, start + len(some)
