"""The stage that finds the ranges: from a cache, or from samples or real images by the calibrator that suits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.data.batches import Batches, first_inputs
from calibrators.distributed import ALONE, Ranks
from calibrators.options import ALGORITHMS, Algorithm
from calibrators.ranges.calibrate import CalibrationResult, calibrate, observed_over, ranges_from_observed
from calibrators.ranges.ranges import Ranges
from calibrators.zscgan.sampling import TrainedGenerator
from converter.console import Reporter
from converter.graph.capture import FoldedGraph, observe
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.quantize.placement import QuantizationPlan
from converter.report.document import Report
from converter.stages.synthesis import CHOOSING, samples
from converter.trust.calibrator_choice import choose_calibrator, divergences
from converter.trust.prediction import BorderBatches, border_inputs, inputs_for


def calibrated(
    inputs: Inputs,
    options: ConvertOptions,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    generator: TrainedGenerator | None,
    reporter: Reporter,
    report: Report,
    ranks: Ranks = ALONE,
) -> Ranges:
    """A range for every activation: from the cache, from real images or from samples.

    The plan's Q/DQ pairs need some of them; the rest is for TensorRT's implicit quantization, which places its
    own and takes the ranges from ``calibration.cache``. A cache has those of the plan.
    """
    if inputs.cached is not None:
        with reporter.stage("calibration") as stage:
            ranges = inputs.cached.selected(name for name in graph.activations if name in inputs.cached.amax)
            stage.detail = f"{len(ranges.amax)} ranges from {options.calibration_cache}"
        if inputs.cached.fingerprint is None:
            reporter.warn(
                f"{options.calibration_cache} doesn't say for which weights it was made; its ranges were taken "
                "as they are (--recalibrate measures them anew)"
            )
        return ranges
    data = calibration_data(inputs, options, generator)
    source = "zscgan" if inputs.calib is None else "images"
    with (
        reporter.stage("calibration") as stage,
        reporter.progress("calibration", data.num_samples) as advance,
    ):
        results = measured(inputs, options, graph, data, advance, ranks)
        candidates = {algorithm: known(result, inputs, graph) for algorithm, result in results.items()}
        taken = options.calibration.algorithm
        if len(candidates) > 1:
            judged = divergences(candidates, graph, plan, judges(inputs, options, generator))
            taken = choose_calibrator(judged)
            found = {algorithm: float(nats.mean()) for algorithm, nats in judged.items()}
            report.calibration["divergence"] = found
        result, amax = results[taken], candidates[taken]
        stage.detail = f"{taken}, {len(amax)} ranges from {result.samples} {source} inputs"
    if len(candidates) > 1:
        nats = ", ".join(f"{name} {found[name]:.1e}" for name in sorted(found, key=found.__getitem__))
        reporter.say(
            f"note: {taken} ranges keep INT8 nearest to FP32 (KL: {nats}); --calibrator names another"
        )
    if dead := [name for name in result.dead if name in plan.observed]:
        reporter.warn(f"always zero on every input, range set to {amax[dead[0]]:g}: {', '.join(dead)}")
    return Ranges(
        amax,
        taken,
        result.samples,
        options.synthesis.seed,
        source,  # type: ignore[arg-type]
        inputs.ranges_for,
    )


def calibration_data(inputs: Inputs, options: ConvertOptions, generator: TrainedGenerator | None) -> Batches:
    """The real images that the user brought, else samples."""
    if inputs.calib is not None:
        return inputs.calib
    assert generator is not None
    return samples(generator, inputs, options)


def judges(
    inputs: Inputs, options: ConvertOptions, generator: TrainedGenerator | None
) -> Float[np.ndarray, "batch channels height width"]:
    """Inputs to compare calibrators on: fresh samples, or the first of the real images, half of them mixed."""
    count, seed = inputs_for(inputs.batch), options.synthesis.seed + CHOOSING
    if inputs.calib is not None:
        data: Batches = BorderBatches(inputs.calib, seed)
    else:
        assert generator is not None
        data = border_inputs(generator, count, inputs.batch, seed)
    return first_inputs(data, count).cpu().contiguous().numpy()


@dataclass(frozen=True)
class _Activations:
    """The activations of a graph by name, for ``calibrate``."""

    graph: FoldedGraph
    device: torch.device

    def __call__(self, x: Float[Tensor, "batch channels height width"]) -> Mapping[str, Tensor]:
        return observe(self.graph.module, x.to(self.device), self.graph.activations)[1]


def measured(
    inputs: Inputs,
    options: ConvertOptions,
    graph: FoldedGraph,
    data: Batches,
    on_batch: Callable[[int], None],
    ranks: Ranks,
) -> dict[Algorithm, CalibrationResult]:
    """The range of every activation over ``data``, by the calibrator that was named or by each of them."""
    activations, wanted = _Activations(graph, inputs.device), options.calibration
    if not options.choose_calibrator:
        result = calibrate(activations, data, options=wanted, on_batch=on_batch, ranks=ranks)
        return {wanted.algorithm: result}
    observed = observed_over(activations, data, wanted.samples, on_batch=on_batch, ranks=ranks)
    return {
        algorithm: ranges_from_observed(observed, replace(wanted, algorithm=algorithm), ranks)
        for algorithm in ALGORITHMS
    }


def known(result: CalibrationResult, inputs: Inputs, graph: FoldedGraph) -> dict[str, float]:
    """The measured ranges; that of the input of a network that gets samples is known without measuring."""
    amax = dict(result.amax)
    name = graph.activations[0]
    if inputs.calib is None and name in amax:  # the brightest or darkest pixel
        amax[name] = max(map(abs, (*inputs.teacher.spec.low, *inputs.teacher.spec.high)))
    return amax
