"""Kernels are told to the layers that they belong to, in each form in which ONNX Runtime runs a network."""

from pathlib import Path

import onnx
import pytest

from engines.measurement import noise
from engines.onnx_passes.graph import OnnxGraph
from engines.onnxruntime.layers import Layers
from engines.onnxruntime.lowering import lower_qdq
from engines.onnxruntime.session import session_options
from engines.onnxruntime.timing import Effort, layer_seconds, race
from tests.engines.networks import Net, small_network

BRIEF = Effort(runs=3, seconds=5.0)


def pooled_and_joined() -> onnx.ModelProto:
    """A depthwise convolution, a pool, a concatenation, and layers whose names begin with one another's."""
    net = Net((3, 16, 16))
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 16)))
    x = net.quantized(net.clip(net.conv(x, 16, group=16), 0, 6))
    x = net.quantized(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    branches = [net.node("Relu", net.conv(x, 16)), net.conv(x, 16, 1)]
    return net.model(net.conv(net.quantized(net.node("Concat", *branches, axis=1)), 8))


@pytest.mark.parametrize("model", [small_network(), pooled_and_joined()], ids=["residual", "pooled"])
def test_every_layer_has_a_time(model: onnx.ModelProto, tmp_path: Path) -> None:
    graph = OnnxGraph(model)
    graph.prune()
    layers = Layers(graph)
    choices = [(), layers.quantized, layers.quantized[::2]]
    paths = [tmp_path / f"{position}.onnx" for position in range(len(choices))]
    for path, in_float in zip(paths, choices, strict=True):
        onnx.save(lower_qdq(model, in_float), path)
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
    found = layer_seconds(paths, layers.owners, noise(1, shape, 0), BRIEF)
    for seconds in found:
        assert set(layers.quantized) <= set(seconds) <= {"input", *layers.quantized}
        assert all(seconds[name] > 0 for name in layers.quantized)


def test_a_race_compares_with_the_first(tmp_path: Path) -> None:
    import onnxruntime as ort

    sizes = []
    for channels in (4, 256):
        net = Net((3, 32, 32))
        weight = net.quantized("input")
        onnx.save(lower_qdq(net.model(net.conv(weight, channels))), tmp_path / f"{channels}.onnx")
        sizes.append(ort.InferenceSession(str(tmp_path / f"{channels}.onnx"), session_options(1)))
    first, larger = race(sizes, noise(4, (3, 32, 32), 0), Effort(runs=5, seconds=10.0, least_runs=5))
    assert first == 1.0
    assert larger < 1  # 64 times the work
