"""The stage that finds the ranges: from a cache, or from samples or real images by the calibrator that suits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibrators.data.batches import Batches, first_inputs
from calibrators.data.input_spec import InputSpec
from calibrators.errors import CacheError
from calibrators.options import ALGORITHMS, Algorithm
from calibrators.ranges.cache_file import save_cache
from calibrators.ranges.calibrate import CalibrationResult, calibrate, observe_over, ranges_from_observed
from calibrators.ranges.ranges import Ranges, save_ranges
from converter.environment.cache_version import cache_version
from converter.graph.capture import FoldedGraph, observe
from converter.job import Job, SampleUse
from converter.load.input_normalisation import normalised_values
from converter.quantize.placement import DATA_MOVEMENT, QuantizationPlan
from converter.samples import SampleSource
from converter.stages.judges import judges_of
from converter.trust.answers import array_of
from converter.trust.calibrator_choice import choose_calibrator, divergences
from converter.trust.prediction import BorderBatches, inputs_for
from zscgan_common.warning_message import WarningMessage


@dataclass(frozen=True)
class Calibrated:
    """The ranges, the TensorRT of their cache, and the nats by calibrator where several were compared."""

    ranges: Ranges
    cache_version: str
    divergence: dict[str, float] | None = None


def calibrate_network(
    job: Job, graph: FoldedGraph, plan: QuantizationPlan, samples: SampleSource | None
) -> Calibrated:
    """A range for every activation, in the workspace and in ``--calibration-cache``.

    The plan's Q/DQ pairs need some of them; the rest is for TensorRT's implicit quantization, which places its
    own and takes the ranges from ``calibration.cache``. A cache has those of the plan.
    """
    if job.cached is not None:
        ranges, judged = ranges_of_cache(job, job.cached, graph), None
    else:
        ranges, judged = ranges_of_data(job, graph, plan, samples)
    return Calibrated(ranges, save_calibration(job, ranges), judged)


def ranges_of_cache(job: Job, cached: Ranges, graph: FoldedGraph) -> Ranges:
    """The ranges that ``--calibration-cache`` has for this graph."""
    cache = job.options.calibration_cache
    with job.console.stage("calibration") as stage:
        ranges = cached.selected(name for name in graph.activations if name in cached.amax)
        stage.detail = f"{len(ranges.amax)} ranges from {cache}"
    if cached.fingerprint is None:
        job.console.warn(
            WarningMessage(
                "cache-without-model",
                f"{cache} doesn't say for which weights it was made; its ranges were taken as they are "
                "(--recalibrate measures them anew)",
                "Ranges of other weights ruin the accuracy. Unless you know the cache to be this model's, convert "
                "again with --recalibrate.",
            )
        )
    return ranges


def ranges_of_data(
    job: Job, graph: FoldedGraph, plan: QuantizationPlan, samples: SampleSource | None
) -> tuple[Ranges, dict[str, float] | None]:
    """Ranges measured on real images or samples, and the nats of each calibrator where several were compared."""
    data, source = (
        job.calibration_data(samples),
        "images" if job.calib is not None or samples is None else samples.name,
    )
    console, found = job.console, None
    with console.stage("calibration") as stage, console.progress("calibration", data.num_samples) as advance:
        results = measure_ranges(job, graph, data, advance)
        candidates = {name: with_exact_input(result, job, graph) for name, result in results.items()}
        taken = job.options.calibration.algorithm
        if len(candidates) > 1:
            judged = divergences(candidates, graph, plan, job.task, judges(job, samples))
            taken = choose_calibrator(judged)
            found = {str(algorithm): float(nats.mean()) for algorithm, nats in judged.items()}
        result, amax = results[taken], candidates[taken]
        drawn = job.procedural_among(result.samples) if source == "zscgan" else 0
        inputs = (
            f"{result.samples - drawn} zscgan and {drawn} procedural"
            if drawn
            else f"{result.samples} {source}"
        )
        stage.detail = f"{taken}, {len(amax)} ranges from {inputs} inputs"
    if found is not None:
        nats = ", ".join(f"{name} {found[name]:.1e}" for name in sorted(found, key=found.__getitem__))
        console.info(
            f"note: {taken} ranges keep INT8 nearest to FP32 (KL: {nats}); --calibrator names another"
        )
    warn_of_dead(job, plan, result, amax)
    ranges = Ranges(
        amax,
        taken,
        result.samples,
        job.seed,
        source,  # type: ignore[arg-type]
        job.ranges_for,
    )
    return ranges, found


def warn_of_dead(
    job: Job, plan: QuantizationPlan, result: CalibrationResult, amax: Mapping[str, float]
) -> None:
    """Say which quantized tensors were zero on every input."""
    if dead := [name for name in result.dead if name in plan.observed]:
        job.console.warn(
            WarningMessage(
                "always-zero",
                f"always zero on every input, range set to {amax[dead[0]]:g}: {', '.join(dead)}",
                "Parts of the network that are dead, or that these inputs don't reach. If real images may reach "
                "them, calibrate with --calib-data.",
            )
        )


def judges(job: Job, samples: SampleSource | None) -> Float[np.ndarray, "batch channels height width"]:
    """Inputs to compare calibrators on, half of them mixed: samples to choose on, or the first of the real images."""
    taken = samples if job.calib is None else None
    count = judges_of(job.task, taken, inputs_for(job.batch))
    data: Batches | None = job.calib
    if data is None:
        assert samples is not None
        data = job.choosing_samples(samples, count)
    return array_of(first_inputs(BorderBatches(data, job.seed + SampleUse.CHOOSING), count))


class Activations:
    """The activations of a graph by name, for ``calibrate``: of those that hold the same values, the first."""

    def __init__(self, graph: FoldedGraph, device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.first = {name: name for name in graph.activations}
        for node in graph.onnx.graph.node:
            if node.op_type in DATA_MOVEMENT and {node.input[0], node.output[0]} <= self.first.keys():
                self.first[node.output[0]] = self.first[node.input[0]]

    def __call__(self, x: Float[Tensor, "batch channels height width"]) -> Mapping[str, Tensor]:
        return observe(self.graph.module, x.to(self.device), dict.fromkeys(self.first.values()))[1]

    def all_of(self, found: CalibrationResult) -> CalibrationResult:
        """The ranges of the others too."""
        amax = {name: found.amax[first] for name, first in self.first.items()}
        return replace(found, amax=amax, dead=tuple(n for n in amax if self.first[n] in found.dead))


def measure_ranges(
    job: Job, graph: FoldedGraph, data: Batches, on_batch: Callable[[int], None] = lambda _: None
) -> dict[Algorithm, CalibrationResult]:
    """The range of every activation over ``data``, by the calibrator that was named or by each of them.

    Every rank calls this.
    """
    activations, wanted = Activations(graph, job.device), job.options.calibration
    if not job.options.choose_calibrator:
        result = calibrate(activations, data, options=wanted, on_batch=on_batch, ranks=job.ranks)
        return {wanted.algorithm: activations.all_of(result)}
    observed = observe_over(activations, data, wanted.samples, on_batch=on_batch, ranks=job.ranks)
    return {
        algorithm: activations.all_of(
            ranges_from_observed(observed, replace(wanted, algorithm=algorithm), job.ranks)
        )
        for algorithm in ALGORITHMS
    }


def with_exact_input(result: CalibrationResult, job: Job, graph: FoldedGraph) -> dict[str, float]:
    """The measured ranges; with samples, those of pixels are known without measuring."""
    amax = dict(result.amax)
    if job.calib is not None:
        return amax
    pixels = pixel_ranges(graph, job.teacher.spec, job.device)
    return amax | {name: value for name, value in pixels.items() if name in amax}


def pixel_ranges(graph: FoldedGraph, spec: InputSpec, device: torch.device) -> dict[str, float]:
    """What the brightest or darkest pixel is, at the input and where the graph has normalised it."""
    known = {graph.activations[0]: max(map(abs, (*spec.low, *spec.high)))}
    if normalised := normalised_values(graph.onnx):
        bounds = torch.tensor([spec.low, spec.high], device=device).view(2, -1, 1, 1)
        values = observe(graph.module, bounds.expand(2, *spec.shape), normalised)[1]
        known |= {name: float(value.abs().max()) for name, value in values.items()}
    return known


def save_calibration(job: Job, ranges: Ranges) -> str:
    """``calibration.json`` and TensorRT's ``calibration.cache``, and ``--calibration-cache``; the cache's version."""
    options, version = job.options, cache_version(job.options.trt_version)
    if version.assumed:
        job.console.info(
            f"note: calibration.cache is for TensorRT {version.version}, as no TensorRT 10 is installed here "
            "(--trt-version names another)"
        )
    save_ranges(ranges, job.workspace.path("calibration.json"))
    save_cache(ranges, job.workspace.path("calibration.cache"), version=version.number)
    path = options.calibration_cache
    if path is None or not (options.recalibrate or not path.exists()):
        return version.version
    try:
        save_ranges(ranges, path.with_suffix(".json"))
        if path.suffix != ".json":
            save_cache(ranges, path, version=version.number)
    except OSError as error:
        raise CacheError(
            f"expected to write {path}, but: {error.strerror}; check --calibration-cache"
        ) from error
    return version.version
