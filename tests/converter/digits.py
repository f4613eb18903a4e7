"""The digits example as the command line takes it, and conversions of it that tests can afford."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx
import pytest
from torch import nn

from calibrators.data.input_spec import InputSpec
from converter.graph import capture as graph
from converter.stages import benchmark as measure
from converter.stages import build as building
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.fastest import Choice
from engines.options import BenchOptions

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODEL = [str(DIGITS / "digits.pth"), "--arch", f"{DIGITS / 'model.py'}:digits_resnet"]
INPUT = ["--input-shape", "1x8x8", "--mean", "0.305", "--std", "0.376"]
QUICK = ["--int8", "--gan-steps", "4", "--guide-steps", "0", "--calib-samples", "32", "--no-html"]
"""Flags of a conversion of any network that tests can afford."""

_exported: dict[tuple[object, ...], bytes] = {}


def build_all(source: Path, path: Path) -> Choice:
    """As on a machine on which every layer gains from INT8."""
    onnxruntime.build(source, path)
    layers = sum(node.op_type in {"Conv", "Gemm"} for node in onnx.load(source).graph.node)
    return Choice(layers, (), {1: 1.5, 8: 1.5}, {1: 1.5, 8: 1.5}, 2)


@contextmanager
def quick_conversions() -> Iterator[pytest.MonkeyPatch]:
    """Conversions in the block measure throughput briefly and export the same network only once.

    ONNX Runtime's engine has all layers in INT8: which are the faster ones would depend on the moment.
    """
    export = graph.onnx_from_model

    def once(model: nn.Module, spec: InputSpec) -> onnx.ModelProto:
        weights = hashlib.sha256()
        for name, value in model.state_dict().items():
            weights.update(name.encode() + value.cpu().numpy().tobytes())
        key = repr(model), type(model).forward.__code__.co_code, weights.digest(), spec.shape
        if key not in _exported:
            _exported[key] = export(model, spec).SerializeToString()
        return onnx.load_from_string(_exported[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "BenchOptions", partial(BenchOptions, warmup_ms=0.0, duration_s=0.01))
        patch.setattr(building, "build_fastest", build_all)
        patch.setattr(graph, "onnx_from_model", once)
        yield patch
