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

PART = 32
UNQUANTIZED = QuantizationPlan((), ())


@contextmanager
def run_trial(graph: FoldedGraph, plan: QuantizationPlan, amax: Mapping[str, float]) -> Iterator[Network]:
    """The network with the quantizers of ``plan``, whose ranges are ``amax``, for batches of any size."""
    with tempfile.TemporaryDirectory() as name:
        source, engine = Path(name) / "source.onnx", Path(name) / "engine.onnx"
        onnx.save_model(as_written(qdq_from_onnx(graph.onnx, plan, amax)), source)
        onnxruntime.build(source, engine)
        with OnnxRuntimeEngine(engine) as opened:
            yield in_parts(network_of(opened), 1, opened.fixed_batch or PART)
