"""How much a quantization loses, in percent points: measured on labelled images, or estimated without any.

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
from converter.graph.twin import output_names
from converter.quantize.placement import QuantizationPlan
from converter.trust.answers import Answers, answers, compare
from converter.trust.prediction import Margins, predict_from_logits
from converter.trust.task.base import Task
from converter.trust.trial_engine import UNQUANTIZED, run_trial


@runtime_checkable
class DropOf(Protocol):
    """The loss in percent points; ``by`` is how it is known, ``val``, ``prediction`` or ``agreement``."""

    by: ClassVar[str]

    def __call__(self, plan: QuantizationPlan) -> float: ...


@dataclass(frozen=True)
class MeasuredDrop:
    """By the labelled images ``val``, to which FP32 gave the answers ``baseline``."""

    graph: FoldedGraph
    ranges: Ranges
    val: Batches
    baseline: Answers
    by: ClassVar[str] = "val"

    def __call__(self, plan: QuantizationPlan) -> float:
        """FP32's accuracy less that of ``plan``."""
        with run_trial(self.graph, plan, self.ranges.amax) as network:
            return (
                self.baseline.accuracy
                - answers(network, self.baseline.task, self.val, self.baseline.truths).accuracy
            )


@dataclass(frozen=True)
class PredictedDrop:
    """By ``converter.trust.prediction``, from the logits ``fp32`` of inputs without labels and assumed ``margins``."""

    graph: FoldedGraph
    ranges: Ranges
    task: Task
    x: Float[np.ndarray, "inputs channels height width"]
    fp32: Float[np.ndarray, "inputs classes"]
    margins: Margins
    by: ClassVar[str] = "prediction"

    def __call__(self, plan: QuantizationPlan) -> float:
        """The prediction's estimate."""
        with run_trial(self.graph, plan, self.ranges.amax) as network:
            logits = self.task.decision_logits(network(self.x))
        assert logits is not None  # as FP32 chose among classes
        return predict_from_logits(self.fp32, logits, self.margins).drop


@dataclass(frozen=True)
class AgreementDrop:
    """By what INT8 says otherwise than ``fp32`` of inputs without labels, for tasks that choose no class."""

    graph: FoldedGraph
    ranges: Ranges
    task: Task
    batches: Batches
    fp32: FoldedGraph
    by: ClassVar[str] = "agreement"

    def __call__(self, plan: QuantizationPlan) -> float:
        """100 less the agreement in percent."""
        with (
            run_trial(self.fp32, UNQUANTIZED, {}) as fp32,
            run_trial(self.graph, plan, self.ranges.amax) as network,
        ):
            names = output_names(self.graph.module)
            return 100.0 - compare(fp32, network, self.task, names, self.batches).agreement.percent
