"""The Q/DQ model: numbers by hand, parity with a float64 simulation, properties, refusals."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from calibrators.data.input_spec import InputSpec
from converter.errors import ConversionError
from converter.graph.capture import graph_from_model, observe
from converter.quantize.qdq import qdq_from_onnx, quantized_weight
from tests.converter import networks
from tests.converter.reference import (
    NETWORKS,
    FakeQuantized,
    assert_pairs_are_as_planned,
    graph_of,
    inputs_of,
    planned,
    run_onnx,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shrink", [1.0, 0.5], ids=["full range", "clipping"])
@torch.no_grad()
def test_onnx_runtime_agrees_with_the_simulated_plan(network: type[nn.Module], shrink: float) -> None:
    graph, x = graph_of(network), inputs_of(network, batch=16)
    plan, amax = planned(graph, x)
    amax = {name: shrink * value for name, value in amax.items()}
    int8 = qdq_from_onnx(graph.onnx, plan, amax)
    onnx.checker.check_model(int8, full_check=True)
    assert_pairs_are_as_planned(int8, plan)
    expected = FakeQuantized(graph, plan, amax).run(x)
    actual = torch.from_numpy(run_onnx(int8, x)[0])
    error = (actual - expected).abs() / expected.std()
    # float32 against float64: now and then a value lies so near a step's middle that it rounds the other way.
    # One such value moves the logits by less than a hundredth of their spread.
    assert float(error.median()) < 1e-5
    assert float(error.max()) < 0.02
    unquantized = graph.module(x)
    assert float((actual - unquantized).abs().max()) > 100 * float((actual - expected).abs().median())


def test_quantized_weight_by_hand() -> None:
    # Scales 1 and 2: halves round to even, the largest value is 127.
    weight = np.array([[127.0, 0.5, 1.5, -2.5], [-254.0, 1.0, 3.0, 5.1]], dtype=np.float32)
    values, scale = quantized_weight(weight, axis=0)
    assert scale.tolist() == [1.0, 2.0]
    assert values.tolist() == [[127, 0, 2, -2], [-127, 0, 2, 3]]
    assert (values.dtype, scale.dtype) == (np.int8, np.float32)
    transposed, same = quantized_weight(weight.T, axis=1)
    assert transposed.T.tolist() == values.tolist()
    assert same.tolist() == scale.tolist()


def test_a_channel_of_zeros_gets_a_positive_scale() -> None:
    weight = np.zeros((3, 2), dtype=np.float32)
    weight[1] = 1e-38  # its scale would leave float32's normal numbers
    values, scale = quantized_weight(weight, axis=0, min_scale=torch.tensor([0.0, 0.0, 5.0]))
    assert values.tolist() == [[0, 0], [0, 0], [0, 0]]
    assert scale.tolist() == [1.0, 2.0**-64, 5.0]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(0, 2), st.floats(1e-6, 1e6))
def test_the_error_is_at_most_half_a_step(seed: int, axis: int, size: float) -> None:
    weight = (np.random.default_rng(seed).normal(size=(3, 4, 5)) * size).astype(np.float32)
    values, scale = quantized_weight(weight, axis)
    steps = np.moveaxis(weight, axis, -1) / scale
    assert np.abs(steps - np.moveaxis(values, axis, -1)).max() <= 0.5 + 1e-4
    assert np.abs(np.moveaxis(values, axis, -1)).reshape(-1, len(scale)).max(0).tolist() == [127] * len(scale)


def initializer(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == name))


def test_scales_are_the_ranges_over_127_and_shared_ranges_share_them() -> None:
    graph, x = graph_of(networks.Branches), inputs_of(networks.Branches)
    plan, amax = planned(graph, x)
    int8 = qdq_from_onnx(graph.onnx, plan, amax)
    assert initializer(int8, "relu_scale") == np.float32(amax["relu"]) / np.float32(127)
    joined = np.float32(amax["cat"]) / np.float32(127)
    for name in ("relu_1", "relu_2", "max_pool2d", "cat"):
        assert initializer(int8, f"{name}_scale") == joined
    assert initializer(int8, "int8_zero_point") == 0


def test_float_weights_go_and_biases_stay() -> None:
    graph, x = graph_of(networks.Shared), inputs_of(networks.Shared)
    int8 = qdq_from_onnx(graph.onnx, *planned(graph, x))
    names = [i.name for i in int8.graph.initializer]
    assert len(names) == len(set(names))
    assert {"conv.bias", "conv.bias_1", "fc.bias", "conv.weight_quantized", "conv.weight_scale"} <= set(names)
    assert not {"conv.weight", "conv.weight_1", "fc.weight"} & set(names)
    assert int8.opset_import == graph.onnx.opset_import


def test_a_weight_with_an_unplanned_reader_keeps_its_float_values() -> None:
    graph, x = graph_of(networks.Shared), inputs_of(networks.Shared)
    plan, amax = planned(graph, x)
    int8 = qdq_from_onnx(graph.onnx, replace(plan, weights=plan.weights[:1]), amax)
    assert initializer(int8, "conv.weight").shape == (3, 3, 3, 3)
    read = {node.output[0]: node.input[1] for node in int8.graph.node if node.op_type == "Conv"}
    assert read["conv2d"] == "conv.weight_dequantized"
    assert read["conv2d_1"] == "conv.weight"


def test_equal_arguments_give_equal_bytes_and_leave_the_model_alone() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual)
    before = graph.onnx.SerializeToString()
    first, second = (qdq_from_onnx(graph.onnx, *planned(graph, x)).SerializeToString() for _ in range(2))
    assert first == second
    assert graph.onnx.SerializeToString() == before


class DeadChannels(nn.Module):
    """Grouped transposed and plain convolution with channels of zeros and biases that dwarf the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2, 2, groups=2)
        self.fc = nn.Linear(4, 5)
        with torch.no_grad():
            self.conv.weight[0] = 0
            self.conv.weight[1] = 1e-12
            self.conv.bias.copy_(torch.tensor([3.0, 2.0, 0.1, 0.1]))
            self.up.weight.mul_(1e-9)
            self.up.bias.copy_(torch.tensor([0.0, 1.0, 4.0, 0.5]))
            self.fc.weight[2] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.up(torch.relu(self.conv(x))).mean((2, 3)))


@pytest.mark.slow
@torch.no_grad()
def test_biases_fit_into_int32_at_the_layers_scales() -> None:
    torch.manual_seed(0)
    graph = graph_from_model(DeadChannels(), InputSpec((3, 4, 4)))
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    plan, amax = planned(graph, x)
    int8 = qdq_from_onnx(graph.onnx, plan, amax)
    for layer, tensor, groups in (("conv", "input", 1), ("up", "relu", 2), ("fc", "mean", 1)):
        scale_w = np.tile(initializer(int8, f"{layer}.weight_scale"), groups).astype(np.float64)
        steps = initializer(int8, f"{layer}.bias") / (initializer(int8, f"{tensor}_scale") * scale_w)
        assert np.abs(steps).max() <= 2**30 * (1 + 1e-6)
        assert (scale_w > 0).all()
    # Raising the scales of weights that hardly count loses nothing that can be seen.
    _, values = observe(graph.module, x, ["logits"])
    error = torch.from_numpy(run_onnx(int8, x)[0]) - values["logits"]
    assert float(error.abs().max()) < 0.05


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cat", None, "expected ranges for 6 tensors, got none for cat; calibrate again"),
        ("relu", 0.0, "expected a finite range above 0 for relu, got 0.0; calibrate again"),
        ("relu", -1.0, "above 0 for relu, got -1.0"),
        ("relu", float("nan"), "above 0 for relu, got nan"),
        ("relu", float("inf"), "above 0 for relu, got inf"),
        ("relu", 1e300, "above 0 for relu"),
        ("relu", 1e-300, "above 0 for relu"),
    ],
)
def test_ranges_that_are_missing_or_senseless_are_refused(
    name: str, value: float | None, message: str
) -> None:
    graph, x = graph_of(networks.Branches), inputs_of(networks.Branches)
    plan, amax = planned(graph, x)
    amax.pop(name)
    if value is not None:
        amax[name] = value
    with pytest.raises(ConversionError, match=re.escape(message)):
        qdq_from_onnx(graph.onnx, plan, amax)


def test_weights_that_are_not_finite_are_refused() -> None:
    graph, x = graph_of(networks.Perceptron), inputs_of(networks.Perceptron)
    broken = onnx.ModelProto()
    broken.CopyFrom(graph.onnx)
    for weight in broken.graph.initializer:
        if weight.name == "layers.1.weight":
            weight.CopyFrom(numpy_helper.from_array(np.full((16, 48), np.nan, np.float32), weight.name))
    with pytest.raises(ConversionError, match=r"inf or nan in layers\.1\.weight"):
        qdq_from_onnx(broken, *planned(graph, x))
