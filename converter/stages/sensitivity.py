"""The stage that says which quantizers and which layers cost most, into ``report.json``."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from calibrators.data.batches import Batches, first_inputs
from calibrators.ranges.ranges import Ranges
from calibrators.zscgan.sampling import TrainedGenerator
from converter.console import Reporter
from converter.graph.capture import FoldedGraph
from converter.graph.layer_sizes import layers_from_onnx
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.quantize.placement import QuantizationPlan
from converter.quantize.quantized_inputs import Part, parts_of
from converter.report.document import Report
from converter.stages.synthesis import CHOOSING, samples
from converter.trust.sensitivity import Sensitivity, sensitivity_from_graph

BATCHES = 4
"""Inputs, in batches of the training: 256 small ones or 64 large ones."""


def sensitivity(
    inputs: Inputs,
    options: ConvertOptions,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    ranges: Ranges,
    generator: TrainedGenerator | None,
    reporter: Reporter,
    report: Report,
) -> Sensitivity | None:
    """What each part of ``plan`` costs; None, with a word, where there are no inputs to measure it on."""
    x = probes(inputs, options, generator)
    if x is None:
        reporter.say("note: no samples and no images, so which layers cost most was not measured")
        return None
    with reporter.stage("sensitivity") as stage, reporter.progress("sensitivity", len(x)) as advance:
        found = sensitivity_from_graph(
            graph,
            plan,
            ranges.amax,
            x.to(inputs.device),
            batch_size=max(1, inputs.batch // 2),
            seed=options.synthesis.seed,
            on_batch=advance,
        )
        report.sensitivity = document = document_from_sensitivity(found, graph, plan)
        worst = document["layers"][:1]
        stage.detail = f"KL {document['kl']:.1e} nats by all layers on {len(x)} inputs" + "".join(
            f", {layer['kl']:.1e} by {layer['name']} ({layer['op']}) alone" for layer in worst
        )
    document["seconds"] = round(stage.seconds, 3)
    return found


def probes(
    inputs: Inputs, options: ConvertOptions, generator: TrainedGenerator | None
) -> Float[Tensor, "inputs channels height width"] | None:
    """Fresh samples, or the first of the real images; None where there is neither."""
    count = BATCHES * inputs.batch
    data: Batches | None = inputs.calib or inputs.val
    if generator is not None:
        data = replace(samples(generator, inputs, options, CHOOSING), num_samples=count)
    return None if data is None else first_inputs(data, count)


def document_from_sensitivity(
    found: Sensitivity, graph: FoldedGraph, plan: QuantizationPlan
) -> dict[str, Any]:
    """The report's ``sensitivity``: tensors and layers, what costs most first, and whether ``plan`` has the layer.

    ``kl`` is in nats an input, that of the whole document of all quantizers together.
    """
    return {
        "inputs": len(found.effects),
        "seconds": None,
        "kl": found.kl(found.parts),
        "tensors": _tensors(found),
        "layers": layer_rows(found, graph, plan),
    }


def _tensors(found: Sensitivity) -> list[dict[str, Any]]:
    sqnr = dict(zip(found.parts, found.part_sqnr, strict=True))
    shared: dict[object, list[Part]] = defaultdict(list)
    for part in found.parts:
        shared[part.quantizer].append(part)
    rows = [
        {
            "name": parts[0].tensor,
            "kind": parts[0].kind,
            "layer": parts[0].consumer,
            "sqnr_db": finite(sqnr[parts[0]]),
            "kl": found.kl(parts),
        }
        for parts in shared.values()
    ]
    return sorted(rows, key=lambda row: -row["kl"])


def layer_rows(found: Sensitivity, graph: FoldedGraph, plan: QuantizationPlan) -> list[dict[str, Any]]:
    """The entries of ``layers``; ``int8`` says whether ``plan`` still quantizes all of the layer."""
    sizes, remaining = layers_from_onnx(graph.onnx), set(parts_of(plan))
    read: dict[str, list[Part]] = defaultdict(list)
    for part in found.parts:
        read[part.consumer].append(part)
    rows = [
        {
            "name": name,
            "op": sizes[name].op,
            "macs": sizes[name].macs,
            "parameters": sizes[name].parameters,
            "sqnr_db": finite(found.layer_sqnr[name]),
            "kl": found.kl(parts),
            "int8": remaining.issuperset(parts),
        }
        for name, parts in read.items()
    ]
    return sorted(rows, key=lambda row: -row["kl"])


def finite(value: float) -> float | None:
    """``value``; None for the infinite ratio of an error that is zero, which JSON can't say."""
    return value if abs(value) != float("inf") else None
