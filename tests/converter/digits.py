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
from engines.onnxruntime import stopwatch
from engines.onnxruntime.timing import Effort
from engines.options import BenchOptions

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODEL = [str(DIGITS / "digits.pth"), "--arch", f"{DIGITS / 'model.py'}:digits_resnet"]
INPUT = ["--input-shape", "1x8x8", "--mean", "0.305", "--std", "0.376"]

_exported: dict[tuple[object, ...], bytes] = {}


@contextmanager
def quick_conversions() -> Iterator[pytest.MonkeyPatch]:
    """Conversions in the block measure throughput and layers briefly, and export the same network only once."""
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
        patch.setattr(stopwatch, "_PROFILE", Effort(runs=3, seconds=0.1))
        patch.setattr(stopwatch, "_RACE", Effort(runs=3, seconds=0.1))
        patch.setattr(graph, "onnx_from_model", once)
        yield patch
