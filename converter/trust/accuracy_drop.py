"""How many points of top-1 a quantization loses: measured on labelled images, or predicted without any.

Candidates run as ONNX Runtime engines, which take seconds to build on any machine and compute INT8 exactly; so a
choice of layers is the same whichever engine is deployed.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from calibrators.data.batches import Batches
from calibrators.ranges.ranges import Ranges
from converter.graph.capture import FoldedGraph
from converter.quantize.placement import QuantizationPlan
from converter.trust.prediction import predict_from_logits
from converter.trust.predictions import Predictions, predictions
from converter.trust.trial_engine import run_trial


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
        with run_trial(self.graph, plan, self.ranges.amax) as network:
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
        with run_trial(self.graph, plan, self.ranges.amax) as network:
            return predict_from_logits(self.fp32, network(self.x)).drop
