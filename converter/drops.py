"""How many points of top-1 a quantization loses: measured on labelled images, or predicted without any.

Candidates run as ONNX Runtime engines, which take seconds to build on any machine and compute INT8 exactly; so a
choice of layers is the same whichever engine is deployed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import onnx
from jaxtyping import Float

from calibrators.batches import Batches
from calibrators.ranges import Ranges
from calibrators.zscgan.sampling import TrainedGenerator
from converter.graph import FoldedGraph
from converter.inputs import Inputs
from converter.options import ConvertOptions
from converter.placement import QuantizationPlan
from converter.prediction import border_inputs, predicted_from_logits
from converter.qdq import qdq_from_onnx
from converter.synthesis import CHOOSING
from converter.verify import Logits, Predictions, in_parts, predictions
from engines import onnxruntime
from engines.onnxruntime import OnnxRuntimeEngine

INPUTS = 512
PART = 32


@runtime_checkable
class DropOf(Protocol):
    """The loss of top-1 in percent points; ``by`` is how it is known, ``val`` or ``prediction``."""

    by: ClassVar[str]

    def __call__(self, plan: QuantizationPlan) -> float: ...


@contextmanager
def running(graph: FoldedGraph, plan: QuantizationPlan, ranges: Ranges) -> Iterator[Logits]:
    """The network with the quantizers of ``plan`` in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as name:
        source, engine = Path(name) / "source.onnx", Path(name) / "engine.onnx"
        onnx.save_model(qdq_from_onnx(graph.onnx, plan, ranges.amax), source)
        onnxruntime.build(source, engine)
        with OnnxRuntimeEngine(engine) as opened:
            yield in_parts(opened.run, 1, PART)


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
        with running(self.graph, plan, self.ranges) as network:
            return self.baseline.top1 - predictions(network, self.val).top1


@dataclass(frozen=True)
class PredictedDrop:
    """By ``converter.prediction``, from the logits ``fp32`` of inputs without labels."""

    graph: FoldedGraph
    ranges: Ranges
    x: Float[np.ndarray, "inputs channels height width"]
    fp32: Float[np.ndarray, "inputs classes"]
    by: ClassVar[str] = "prediction"

    def __call__(self, plan: QuantizationPlan) -> float:
        """The prediction's estimate."""
        with running(self.graph, plan, self.ranges) as network:
            return predicted_from_logits(self.fp32, network(self.x)).drop


def unlabelled(inputs: Inputs, options: ConvertOptions, generator: TrainedGenerator | None) -> Batches:
    """What a loss is predicted on: samples that neither trained nor calibrated, or the real images."""
    if generator is not None:
        return border_inputs(generator, INPUTS, inputs.batch, options.synthesis.seed + CHOOSING)
    assert inputs.calib is not None
    return inputs.calib


def first_inputs(batches: Batches, count: int) -> Float[np.ndarray, "inputs channels height width"]:
    """The first ``count`` inputs, or all of them where there are fewer."""
    found: list[np.ndarray] = []
    for x, _ in batches:
        found.append(x[: count - sum(map(len, found))].cpu().contiguous().numpy())
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)


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
    x = first_inputs(unlabelled(inputs, options, generator), INPUTS)
    with running(fp32, QuantizationPlan((), ()), ranges) as network:
        return PredictedDrop(graph, ranges, x, network(x))
