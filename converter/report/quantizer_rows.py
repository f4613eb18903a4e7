"""The Q/DQ pairs of a plan as ``report.json`` lists them."""

from collections.abc import Mapping

from converter.quantize.placement import QuantizationPlan
from converter.report.document import EdgeSection


def edges_from_plan(plan: QuantizationPlan, amax: Mapping[str, float]) -> list[EdgeSection]:
    """An entry for each quantizer: activations in the network's order, then weights.

    A weight has a scale for each index along ``axis``, so it has no single ``amax``; an activation has one scale,
    that of ``amax`` of the tensor ``range_of``, and no ``axis``.
    """
    activations = [
        EdgeSection(
            tensor=quantizer.tensor,
            kind="activation",
            axis=None,
            consumers=list(quantizer.consumers),
            range_of=quantizer.range_of,
            amax=amax[quantizer.range_of],
        )
        for quantizer in plan.activations
    ]
    weights = [
        EdgeSection(
            tensor=quantizer.tensor,
            kind="weight",
            axis=quantizer.axis,
            consumers=[quantizer.consumer],
            range_of=None,
            amax=None,
        )
        for quantizer in plan.weights
    ]
    return activations + weights
