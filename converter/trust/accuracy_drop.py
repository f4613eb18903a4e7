"""How many points of top-1 a quantization loses: measured on labelled images, or predicted without any.

Candidates run as ONNX Runtime engines, which take seconds to build on any machine and compute INT8 exactly; so a
choice of layers is the same whichever engine is deployed.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from calibrators.data.batches import Batches, first_inputs
from calibrators.ranges.ranges import Ranges
from calibrators.zscgan.sampling import TrainedGenerator
from converter.graph.capture import FoldedGraph
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.quantize.placement import QuantizationPlan
from converter.stages.synthesis import CHOOSING
from converter.trust.prediction import border_inputs, predicted_from_logits
from converter.trust.predictions import Predictions, predictions
from converter.trust.trial_engine import UNQUANTIZED, running

INPUTS = 512


@runtime_checkable
class DropOf(Protocol):
    """The loss of top-1 in percent points; ``by`` is how it is known, ``val`` or ``prediction``."""

    by: ClassVar[str]

    def __call__(self, plan: QuantizationPlan) -> float: ...


@dataclass(frozen=True)
class MeasuredDrop:
    """By the labelled images ``val``, on which FP32 chose ``baseline``."""

    graph: FoldedGraph
    ranges: Ranges
    val: Batches
    baseline: Predictions
    by: ClassVar[str] = "val"

    def __call__(self, plan: QuantizationPlan) -> float:
        """FP32's top-1 less that of ``plan``."""
        with running(self.graph, plan, self.ranges.amax) as network:
            return self.baseline.top1 - predictions(network, self.val).top1


@dataclass(frozen=True)
class PredictedDrop:
    """By ``converter.trust.prediction``, from the logits ``fp32`` of inputs without labels."""

    graph: FoldedGraph
    ranges: Ranges
    x: Float[np.ndarray, "inputs channels height width"]
    fp32: Float[np.ndarray, "inputs classes"]
    by: ClassVar[str] = "prediction"

    def __call__(self, plan: QuantizationPlan) -> float:
        """The prediction's estimate."""
        with running(self.graph, plan, self.ranges.amax) as network:
            return predicted_from_logits(self.fp32, network(self.x)).drop


def unlabelled(inputs: Inputs, options: ConvertOptions, generator: TrainedGenerator | None) -> Batches:
    """What a loss is predicted on: samples that neither trained nor calibrated, or the real images."""
    if generator is not None:
        return border_inputs(generator, INPUTS, inputs.batch, options.synthesis.seed + CHOOSING)
    assert inputs.calib is not None
    return inputs.calib


def drop_of_plans(
    inputs: Inputs,
    options: ConvertOptions,
    fp32: FoldedGraph,
    graph: FoldedGraph,
    ranges: Ranges,
    baseline: Predictions | None,
    generator: TrainedGenerator | None,
) -> DropOf:
    """How the drop of ``graph`` from ``fp32`` is known: by ``--val`` where there is one, else predicted."""
    if inputs.val is not None and baseline is not None:
        return MeasuredDrop(graph, ranges, inputs.val, baseline)
    x = first_inputs(unlabelled(inputs, options, generator), INPUTS).cpu().contiguous().numpy()
    with running(fp32, UNQUANTIZED, {}) as network:
        return PredictedDrop(graph, ranges, x, network(x))
