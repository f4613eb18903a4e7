"""Whether the one-pass sensitivity ranks quantizers as quantizing them one at a time does, and what both take.

Each quantizer of the INT8 model, and each layer with all its inputs, is simulated alone and its KL(FP32 || that
network) is measured; ``converter.trust.sensitivity`` estimates the same on the same inputs in one pass. Prints a table
with Spearman's rank correlation, the median ratio of the estimate to the measured value, and the seconds of both.
DATA is the folder of ``conversion.py``; the inputs are real images, or samples with ``--generator``.

    python benchmarks/sensitivity.py DATA --network resnet20,resnet56,efficientnet_lite0 --json FILE
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from conversion import Network
from observed import histograms, ranges
from prediction import spearman
from torch import Tensor
from trial import (
    NAMES,
    REFERENCE,
    batch_of,
    calibration_images,
    gan_options_of,
    network_from_data,
    task_of,
    teacher_from_network,
)

from calibrators.data.batches import Batches
from calibrators.fingerprint import fingerprint
from calibrators.options import ALGORITHMS
from calibrators.zscgan.sampling import load_generator
from converter.graph.capture import FoldedGraph, graph_from_model
from converter.load.model import Teacher
from converter.quantize.fake_quant import simulate
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.quantize.quantized_inputs import Part, plan_of_parts
from converter.stages.sensitivity import BATCHES
from converter.stages.synthesis import generated_samples
from converter.trust.sensitivity import BITS, Sensitivity, sensitivity_from_graph


@dataclass(frozen=True)
class Figures:
    """One kind of piece (``tensors`` or ``layers``) of one network."""

    network: str
    pieces: str
    number: int
    inputs: int
    spearman: float
    ratio: float
    estimate_s: float
    one_at_a_time_s: float
    worst: list[tuple[str, float, float]]


def inputs_of(network: Network, teacher: Teacher, count: int, generator: Path | None) -> Batches:
    """The inputs to measure on: real images, or samples that did not calibrate."""
    if generator is None:
        images: Batches = calibration_images(network, teacher.spec, REFERENCE + 1, count)
        return images
    weights = fingerprint(teacher.module.state_dict())
    trained = load_generator(generator, fingerprint=weights, spec=teacher.spec, device=torch.device("cpu"))
    generated = generated_samples(teacher, task_of(teacher), trained, gan_options_of(teacher))
    return generated.batches(count, batch_of(teacher.spec.shape), seed=1)


@torch.no_grad()
def log_probabilities(module: torch.nn.Module, x: Tensor, batch: int) -> Tensor:
    """Logarithms of the class probabilities in float64."""
    return torch.cat([module(some).double().log_softmax(dim=1) for some in x.split(batch)])


def mean_divergence(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats of logarithmic probabilities, averaged over the inputs."""
    return float((p.exp() * (p - q)).sum(dim=1).mean())


def pieces_of(sensitivity: Sensitivity, pieces: str) -> Iterator[tuple[str, list[Part]]]:
    """Name and parts of each quantizer, or of each layer."""
    grouped: dict[object, list[Part]] = {}
    for part in sensitivity.parts:
        grouped.setdefault(part.consumer if pieces == "layers" else part.quantizer, []).append(part)
    for parts in grouped.values():
        yield (parts[0].consumer if pieces == "layers" else f"{parts[0].kind} {parts[0].tensor}"), parts


def one_at_a_time(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: dict[str, float],
    x: Tensor,
    batch: int,
    pieces: list[list[Part]],
) -> list[float]:
    """KL(FP32 || network with these parts alone quantized) for each of ``pieces``, in nats."""
    fp32 = log_probabilities(graph.module, x, batch)
    return [
        mean_divergence(
            fp32, log_probabilities(simulate(graph, plan_of_parts(plan, parts), amax, BITS), x, batch)
        )
        for parts in pieces
    ]


def measured(name: str, network: Network, given: argparse.Namespace) -> Iterator[Figures]:
    """The figures of one network."""
    teacher = teacher_from_network(network)
    graph = graph_from_model(teacher.module, teacher.spec)
    plan = place_quantizers(graph.onnx)
    seen = histograms(graph, plan, calibration_images(network, teacher.spec, REFERENCE), torch.device("cpu"))
    amax = ranges(seen, given.calibrator)
    batch = batch_of(teacher.spec.shape)
    count = given.inputs or BATCHES * batch
    x = torch.cat([x for x, _ in inputs_of(network, teacher, count, given.generator)])[:count]
    batch = batch // 2
    started = time.perf_counter()
    sensitivity = sensitivity_from_graph(graph, plan, amax, task_of(teacher), x, batch_size=batch, seed=0)
    estimate_s = time.perf_counter() - started
    for kind in ("tensors", "layers"):
        names, parts = zip(*pieces_of(sensitivity, kind), strict=True)
        started = time.perf_counter()
        truth = one_at_a_time(graph, plan, amax, x, batch, list(parts))
        one_at_a_time_s = time.perf_counter() - started
        estimates = [sensitivity.kl(some) for some in parts]
        rows = sorted(zip(names, estimates, truth, strict=True), key=lambda row: -row[2])
        ratio = float(np.median(np.array(estimates) / np.array(truth)))
        rank = spearman(estimates, truth)
        yield Figures(name, kind, len(names), len(x), rank, ratio, estimate_s, one_at_a_time_s, rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--network", default="resnet20", help=f"of {', '.join(NAMES)}, with commas between")
    parser.add_argument("--inputs", type=int, help="[default: as many as a conversion takes]")
    parser.add_argument("--calibrator", choices=ALGORITHMS, default="mse")
    parser.add_argument("--generator", type=Path, help="generator.pt of a conversion of the network")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    found: list[Figures] = []
    print("| network | pieces | Spearman | estimate / measured | one pass | one at a time |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in given.network.split(","):
        with tempfile.TemporaryDirectory() as folder:
            network = network_from_data(name, given.data, Path(folder))
            for figures in measured(name, network, given):
                found.append(figures)
                f = figures
                print(
                    f"| {name} | {f.number} {f.pieces} | {f.spearman:.3f} | {f.ratio:.2f} | {f.estimate_s:.1f} s | "
                    f"{f.one_at_a_time_s:.1f} s |",
                    flush=True,
                )
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(figures) for figures in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
