"""Calibration: run the network over the batches, watch the named activations, choose a range for each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.algorithms import amax_from_histogram
from calibrators.amax import AmaxCollector
from calibrators.batches import Batches
from calibrators.errors import CalibrationError
from calibrators.histogram import HistogramCollector
from calibrators.options import CalibrationOptions
from calibrators.scales import DEAD_AMAX, MIN_AMAX

Observe = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class CalibrationResult:
    """A range for each tensor, each with a scale that float32 can hold.

    ``dead`` names the tensors that were zero on every sample (or below ``MIN_AMAX``, too small for a scale);
    their amax is ``DEAD_AMAX``. ``samples`` is the number of inputs that were run.
    """

    amax: dict[str, float]
    dead: tuple[str, ...]
    samples: int


def calibrate(
    observe: Observe,
    batches: Batches,
    *,
    options: CalibrationOptions,
    on_batch: Callable[[int], None] | None = None,
) -> CalibrationResult:
    """Ranges of the activations that ``observe`` returns by name, over at most ``options.samples`` inputs.

    The result does not depend on the batch size or the order of the batches. ``on_batch`` gets the number of
    inputs done so far after each batch. Raises CalibrationError where there are no inputs, no activations, or
    activations that are NaN or infinite.
    """
    collectors: dict[str, AmaxCollector | HistogramCollector] = {}
    collector_class = AmaxCollector if options.algorithm == "max" else HistogramCollector
    samples = 0
    with torch.no_grad():
        for x in _first_samples(batches, options.samples):
            for name, activation in observe(x).items():
                if name not in collectors:
                    collectors[name] = collector_class(name)
                collectors[name].collect(activation)
            samples += len(x)
            if on_batch is not None:
                on_batch(samples)
    if samples == 0:
        raise CalibrationError(
            "expected calibration data, got no inputs; check --calib-data and --calib-samples"
        )
    if not collectors:
        raise CalibrationError(
            "expected activations to calibrate, got none: the network has no layer to quantize"
        )
    chosen = {name: _amax(collector, options) for name, collector in collectors.items()}
    dead = tuple(name for name, amax in chosen.items() if amax < MIN_AMAX)
    return CalibrationResult(chosen | dict.fromkeys(dead, DEAD_AMAX), dead, samples)


def _amax(collector: AmaxCollector | HistogramCollector, options: CalibrationOptions) -> float:
    """The range that a collector's values call for; 0 where they were all zero."""
    if isinstance(collector, AmaxCollector):
        return collector.amax
    return amax_from_histogram(collector.histogram(), options)


def _first_samples(batches: Batches, limit: int) -> Iterator[Float[Tensor, "batch channels height width"]]:
    """Inputs of the batches up to ``limit``; the last batch is cut, and none is drawn in vain."""
    left = min(limit, batches.num_samples)
    if left < 1:
        return
    for x, _ in batches:
        if len(x) > 0:
            yield x[:left]
        left -= len(x)
        if left <= 0:
            return
