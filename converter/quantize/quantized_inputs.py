"""A quantization plan cut into its smallest parts: one quantized input of one layer."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from converter.quantize.placement import ActivationQuantizer, QuantizationPlan, WeightQuantizer

Kind = Literal["activation", "weight"]


@dataclass(frozen=True)
class Part:
    """The quantized value ``tensor`` as its reader takes it: the node whose first output is ``consumer``.

    An activation has the range of ``range_of``, a weight one scale for each index along ``axis``.
    """

    kind: Kind
    tensor: str
    consumer: str
    range_of: str | None = None
    axis: int | None = None

    @property
    def quantizer(self) -> tuple[Kind, str, str | None, int | None]:
        """Equal for the parts that share one Q/DQ pair."""
        return self.kind, self.tensor, self.range_of, self.axis


def parts_of(plan: QuantizationPlan) -> tuple[Part, ...]:
    """Every part of ``plan``: its activations in their order, then its weights."""
    activations = [
        Part("activation", pair.tensor, consumer, range_of=pair.range_of)
        for pair in plan.activations
        for consumer in pair.consumers
    ]
    weights = [Part("weight", weight.tensor, weight.consumer, axis=weight.axis) for weight in plan.weights]
    return (*activations, *weights)


def plan_of_parts(plan: QuantizationPlan, parts: Collection[Part]) -> QuantizationPlan:
    """``plan`` with ``parts`` quantized and all else in float."""
    activations, weights = set[tuple[str, str, str | None]](), set[tuple[str, str]]()
    for part in parts:
        if part.kind == "activation":
            activations.add((part.tensor, part.consumer, part.range_of))
        else:
            weights.add((part.tensor, part.consumer))
    kept = [
        ActivationQuantizer(pair.tensor, consumers, pair.range_of)
        for pair in plan.activations
        if (consumers := tuple(c for c in pair.consumers if (pair.tensor, c, pair.range_of) in activations))
    ]
    kept_weights: list[WeightQuantizer] = [
        weight for weight in plan.weights if (weight.tensor, weight.consumer) in weights
    ]
    return QuantizationPlan(tuple(kept), tuple(kept_weights))
