"""The FP32 ONNX model beside PyTorch: the same shapes and numbers at every batch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from converter.errors import CaptureError
from converter.stages.capture import CHECKED_BATCHES, difference_from
from converter.trust.answers import network_of
from engines.onnxruntime.engine import OnnxRuntimeEngine


def model_with(last: onnx.NodeProto, path: Path) -> Path:
    """A mean over space and ``last``, which makes logits of it."""
    nodes = [helper.make_node("GlobalAveragePool", ["input"], ["mean"]), last]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", ["batch", 3, 4, 4]), ("logits", ["batch", 3]))
    ]
    two = helper.make_tensor("two", TensorProto.INT64, [2], [2, 3])
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], [two])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_batch_of_one_is_checked_too(tmp_path: Path) -> None:
    assert CHECKED_BATCHES == (1, 2, 5)
    x = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    expected = x.mean((2, 3))
    good = helper.make_node("Flatten", ["mean"], ["logits"])
    with OnnxRuntimeEngine(model_with(good, tmp_path / "good.onnx")) as engine:
        assert difference_from(network_of(engine), x[:1], {"logits": expected[:1]}) < 1e-6
        with pytest.raises(
            CaptureError, match=r"and PyTorch differ by 1 in logits of at most 1\.\d+; .* writes wrongly"
        ):
            difference_from(network_of(engine), x, {"logits": expected + 1})
        slightly = {"logits": expected + np.float32(5e-4)}
        assert difference_from(network_of(engine), x, slightly) == pytest.approx(5e-4, abs=1e-6)
    bare = helper.make_node("Squeeze", ["mean"], ["logits"])
    with OnnxRuntimeEngine(model_with(bare, tmp_path / "bare.onnx")) as engine:
        assert difference_from(network_of(engine), x, {"logits": expected}) < 1e-6
        with pytest.raises(
            CaptureError, match=r"logits of shape \[1, 3\] for a batch of 1, got \[3\]; .*x.flatten"
        ):
            difference_from(network_of(engine), x[:1], {"logits": expected[:1]})
    fixed = helper.make_node("Reshape", ["mean", "two"], ["logits"])
    with (
        OnnxRuntimeEngine(model_with(fixed, tmp_path / "fixed.onnx")) as engine,
        pytest.raises(CaptureError, match=r"fails on a batch of 1: .*; the network must take any batch"),
    ):
        difference_from(network_of(engine), x[:1], {"logits": expected[:1]})
