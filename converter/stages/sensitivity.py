"""The stage that says which quantizers and which layers cost most."""

from collections import defaultdict
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from calibrators.data.batches import Batches, first_inputs
from calibrators.ranges.ranges import Ranges
from converter.graph.capture import FoldedGraph
from converter.graph.layer_sizes import layers_from_onnx
from converter.job import Job
from converter.quantize.placement import QuantizationPlan
from converter.quantize.quantized_inputs import Part, parts_of
from converter.report.document import LayerSensitivity, SensitivitySection, TensorSensitivity
from converter.samples import SampleSource
from converter.trust.sensitivity import Sensitivity, sensitivity_from_graph

BATCHES = 4
"""Inputs, in batches of the training: 256 small ones or 64 large ones."""


@dataclass(frozen=True)
class Costs:
    """What each part of a plan costs, and the section of the report."""

    sensitivity: Sensitivity
    section: SensitivitySection

    def with_plan(self, graph: FoldedGraph, plan: QuantizationPlan) -> SensitivitySection:
        """The section, where ``plan`` says which layers are in INT8."""
        return replace(self.section, layers=layer_rows(self.sensitivity, graph, plan))


def measure_costs(
    job: Job,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    ranges: Ranges,
    samples: SampleSource | None,
) -> Costs | None:
    """What each part of ``plan`` costs; None, with a word, where there are no inputs to measure it on."""
    x = probes(job, samples)
    if x is None:
        job.console.info("note: no samples and no images, so which layers cost most was not measured")
        return None
    with job.console.stage("sensitivity") as stage, job.console.progress("sensitivity", len(x)) as advance:
        found = sensitivity_from_graph(
            graph,
            plan,
            ranges.amax,
            job.task,
            x.to(job.device),
            batch_size=max(1, job.batch // 2),
            seed=job.seed,
            on_batch=advance,
        )
        section = section_of(found, graph, plan)
        stage.detail = f"KL {section.kl:.1e} nats by all layers on {len(x)} inputs" + "".join(
            f", {layer.kl:.1e} by {layer.name} ({layer.op}) alone" for layer in section.layers[:1]
        )
    return Costs(found, replace(section, seconds=round(stage.seconds, 3)))


def probes(job: Job, samples: SampleSource | None) -> Float[Tensor, "inputs channels height width"] | None:
    """Samples to choose on, or the first of the real images; None where there is neither."""
    count = BATCHES * job.batch
    data: Batches | None = job.calib or job.val
    if samples is not None:
        data = job.choosing_samples(samples, count)
    return None if data is None else first_inputs(data, count)


def section_of(found: Sensitivity, graph: FoldedGraph, plan: QuantizationPlan) -> SensitivitySection:
    """The report's ``sensitivity``: tensors and layers, what costs most first, and whether ``plan`` has the layer.

    ``kl`` is in nats an input, that of the whole section of all quantizers together.
    """
    return SensitivitySection(
        inputs=len(found.effects),
        seconds=0.0,
        kl=found.kl(found.parts),
        tensors=_tensors(found),
        layers=layer_rows(found, graph, plan),
    )


def _tensors(found: Sensitivity) -> list[TensorSensitivity]:
    sqnr = dict(zip(found.parts, found.part_sqnr, strict=True))
    shared: dict[object, list[Part]] = defaultdict(list)
    for part in found.parts:
        shared[part.quantizer].append(part)
    rows = [
        TensorSensitivity(
            name=parts[0].tensor,
            kind=parts[0].kind,
            layer=parts[0].consumer,
            sqnr_db=finite(sqnr[parts[0]]),
            kl=found.kl(parts),
        )
        for parts in shared.values()
    ]
    return sorted(rows, key=lambda row: -row.kl)


def layer_rows(found: Sensitivity, graph: FoldedGraph, plan: QuantizationPlan) -> list[LayerSensitivity]:
    """The entries of ``layers``; ``int8`` says whether ``plan`` still quantizes all of the layer."""
    sizes, remaining = layers_from_onnx(graph.onnx), set(parts_of(plan))
    read: dict[str, list[Part]] = defaultdict(list)
    for part in found.parts:
        read[part.consumer].append(part)
    rows = [
        LayerSensitivity(
            name=name,
            op=sizes[name].op,
            macs=sizes[name].macs,
            parameters=sizes[name].parameters,
            sqnr_db=finite(found.layer_sqnr[name]),
            kl=found.kl(parts),
            int8=remaining.issuperset(parts),
        )
        for name, parts in read.items()
    ]
    return sorted(rows, key=lambda row: -row.kl)


def finite(value: float) -> float | None:
    """``value``; None for the infinite ratio of an error that is zero, which JSON can't say."""
    return value if abs(value) != float("inf") else None
