"""A quantization of a network that is tried out: built and run in ONNX Runtime, whichever engine is deployed."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx

from converter.graph.capture import FoldedGraph, as_written
from converter.quantize.placement import QuantizationPlan
from converter.quantize.qdq import qdq_from_onnx
from converter.trust.answers import in_parts, network_of
from converter.trust.task.base import Network
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine

PART, PART_PIXELS = 32, 32 * 128 * 128
"""Inputs that run at once, and how many pixels these have at most: what bounds the memory of all activations."""
UNQUANTIZED = QuantizationPlan((), ())


@contextmanager
def run_trial(graph: FoldedGraph, plan: QuantizationPlan, amax: Mapping[str, float]) -> Iterator[Network]:
    """The network with the quantizers of ``plan``, whose ranges are ``amax``, for batches of any size."""
    with tempfile.TemporaryDirectory() as name:
        source, engine = Path(name) / "source.onnx", Path(name) / "engine.onnx"
        onnx.save_model(as_written(qdq_from_onnx(graph.onnx, plan, amax)), source)
        onnxruntime.build(source, engine)
        with OnnxRuntimeEngine(engine) as opened:
            yield in_parts(network_of(opened), 1, opened.fixed_batch or _part(graph))


def _part(graph: FoldedGraph) -> int:
    """How many inputs run at once."""
    *_, height, width = (int(dim.dim_value) for dim in graph.onnx.graph.input[0].type.tensor_type.shape.dim)
    return max(1, min(PART, PART_PIXELS // (height * width)))
