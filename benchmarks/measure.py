"""What calibration samples are worth to one quantized network: errors of the ranges, accuracy at several bits.

``fidelity.py`` runs it: ``measure.py NETWORK.json SETTINGS``, SETTINGS being JSON with ``samples`` (archives of
``sources.py``), ``evaluate`` (pairs of bits and calibrator), ``input_range``, ``device``, ``judged`` and ``output``.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conversion import Network
from observed import histograms, range_errors, ranges, summary
from torch import Tensor, nn
from trial import (
    REFERENCE,
    batch_of,
    calibration_images,
    judged_images,
    load_network,
    task_of,
    teacher_from_network,
)

from calibrators.data.batches import Batches, TensorBatches
from calibrators.data.images import ImageBatches, images_from_path
from calibrators.kernels import exact_kernels
from calibrators.options import ALGORITHMS, Algorithm
from calibrators.ranges.histogram import Histogram
from calibrators.zscgan.quality import sample_quality
from converter.graph.capture import INPUT, FoldedGraph, graph_from_model
from converter.graph.outputs import tensors_of
from converter.job import device_from_name
from converter.load.model import Teacher
from converter.quantize.fake_quant import simulate
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.trust.answers import Answers, answers
from converter.trust.task.classes import Classes
from converter.trust.task.heads import divergence

Evaluation = tuple[int, Algorithm]


@dataclass(frozen=True)
class Bench:
    """The network with everything that is the same for all samples."""

    teacher: Teacher
    graph: FoldedGraph
    plan: QuantizationPlan
    val: ImageBatches
    fp32: Answers
    logits: list[Tensor]
    """Of FP32, batch by batch."""
    true: dict[str, Histogram]
    device: torch.device

    def answers(self, logits: Iterable[Tensor]) -> Answers:
        """The classes that ``logits`` of the validation images choose, batch by batch, beside the true ones."""
        return answers_of(logits, task_of(self.teacher), self.val)

    def divergence(self, logits: Iterable[Tensor]) -> float:
        """Mean KL of FP32's class probabilities from those of ``logits``, in nats."""
        heads = task_of(self.teacher).heads
        pairs = zip(self.logits, logits, strict=True)
        return float(torch.cat([divergence(heads((one,)), heads((other,))) for one, other in pairs]).mean())


def answers_of(logits: Iterable[Tensor], task: Classes, val: ImageBatches) -> Answers:
    """The classes that ``logits`` of labelled images choose, batch by batch, beside the true ones."""
    said = iter(logits)
    return answers(lambda _: (next(said).numpy(),), task, val, [val.labels[index] for index in val.order])


@torch.no_grad()
def logits_of(module: nn.Module, val: ImageBatches, device: torch.device) -> list[Tensor]:
    """The logits of ``module`` for each batch of images, in float64."""
    return [tensors_of(module(x.to(device)))[0].double().cpu() for x, _ in val]


def bench_for(network: Network, device: torch.device, judged: int) -> Bench:
    """Loads the network, runs it in FP32, and takes the true histograms from real images.

    ``judged`` images measure the accuracy, of those that are kept for calibration; 0: the network's own ``val``.
    """
    teacher = teacher_from_network(network)
    graph = graph_from_model(teacher.module, teacher.spec, device)
    plan = place_quantizers(graph.onnx)
    batch = batch_of(teacher.spec.shape)
    classes = task_of(teacher).classes
    if judged:
        val = judged_images(network, teacher.spec, judged, classes)
    else:
        val = images_from_path(
            network.val, teacher.spec, batch_size=batch, require_labels=True, classes=classes
        )
    logits = logits_of(graph.module, val, device)
    fp32 = answers_of(logits, task_of(teacher), val)
    true = histograms(graph, plan, calibration_images(network, teacher.spec, REFERENCE), device)
    return Bench(teacher, graph, plan, val, fp32, logits, true, device)


def measured(
    bench: Bench, batches: Batches, evaluations: list[Evaluation], bounds: float | None
) -> dict[str, Any]:
    """The figures of one set of samples.

    ``bounds`` is the input's range where it shall not come from the samples; the true one stays as it is seen.
    """
    quality = sample_quality(bench.teacher.module, on_device(batches, bench.device))
    seen = histograms(bench.graph, bench.plan, batches, bench.device)
    errors = {name: range_errors(ranges(seen, name), ranges(bench.true, name)) for name in ALGORITHMS}
    accuracy = {}
    for bits, algorithm in evaluations:
        amax = ranges(seen, algorithm, bits)
        if bounds is not None and INPUT in amax:
            amax[INPUT] = bounds
        quantized = simulate(bench.graph, bench.plan, amax, bits)
        logits = logits_of(quantized, bench.val, bench.device)
        said = bench.answers(logits)
        figures = {
            "top1": said.accuracy,
            "agreement": said.agreement(bench.fp32).percent,
            "kl": bench.divergence(logits),
        }
        accuracy[f"W{bits}A{bits} {algorithm}"] = figures
        print(f"  {bits} bits, {algorithm}: {figures}", file=sys.stderr, flush=True)
    return {
        "bn_kl": quality.bn_kl,
        "label_accuracy": quality.label_accuracy,
        "range_error": {name: summary(values) for name, values in errors.items()},
        "accuracy": accuracy,
        "log2_range_errors": errors,
    }


def on_device(batches: Batches, device: torch.device) -> Batches:
    """The same batches where the teacher is."""
    pairs = [(x.to(device), y.to(device)) for x, y in batches]
    x, y = zip(*pairs, strict=True)
    return TensorBatches(torch.cat(x), torch.cat(y), batches.batch_size)


def pixel_bounds(teacher: Teacher) -> float:
    """Largest magnitude of a valid pixel, as a conversion with samples takes it."""
    return max(map(abs, (*teacher.spec.low, *teacher.spec.high)))


@exact_kernels()
def main(network_path: Path, settings: dict[str, Any]) -> None:
    """Measures all samples and writes one document."""
    bench = bench_for(load_network(network_path), device_from_name(settings["device"]), settings["judged"])
    evaluations = [(int(bits), algorithm) for bits, algorithm in settings["evaluate"]]
    rows = []
    for path in map(Path, settings["samples"]):
        with np.load(path) as archive:
            x, y = torch.from_numpy(archive["x"]), torch.from_numpy(archive["y"])
        made = json.loads(path.with_suffix(".json").read_text())
        fixed = settings["input_range"] == "pixels" and made["key"]["source"] != "images"
        bounds = pixel_bounds(bench.teacher) if fixed else None
        print(f"measuring {path.stem}", file=sys.stderr, flush=True)
        batches = TensorBatches(x, y, batch_of(bench.teacher.spec.shape))
        rows.append({**made, **measured(bench, batches, evaluations, bounds)})
    document = {
        "images": len(bench.fp32.items),
        "fp32_top1": bench.fp32.accuracy,
        "quantized_tensors": len(bench.plan.observed),
        "torch": torch.__version__,
        "device": str(bench.device),
        "rows": rows,
    }
    Path(settings["output"]).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
