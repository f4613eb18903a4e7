"""Outputs that are one value, an input or a weight, and names that other values have, from the network to INT8."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_model
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.quantize.qdq import qdq_from_onnx
from tests.converter.networks import randomised
from tests.converter.reference import planned, run_onnx

SPEC = InputSpec((3, 6, 6))


class Named(nn.Module):
    """A network whose outputs have these names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.conv, self.norm, self.names = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), names

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        return dict(zip(self.names, (torch.relu(2 * y - 0.2), y.mean((2, 3))), strict=True))


class Repeated(Named):
    """One value twice, and the input."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        return {"first": y, "again": y, "pixels": x}


def assert_the_same_everywhere(network: nn.Module, names: Sequence[str]) -> None:
    """Names and numbers in ONNX Runtime, before and after quantization."""
    network = randomised(network)
    graph, x = graph_from_model(network, SPEC), torch.rand(5, *SPEC.shape)
    onnx.checker.check_model(graph.onnx, full_check=True)
    assert [value.name for value in graph.onnx.graph.output] == list(names)
    with torch.no_grad():
        expected = list(network(x).values())
        ours = graph.module(x)
    plan, amax = planned(graph, x)
    quantized = qdq_from_onnx(graph.onnx, plan, amax)
    onnx.checker.check_model(quantized, full_check=True)
    for found in (ours, run_onnx(graph.onnx, x, list(names))):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(one), other.numpy(), atol=1e-5)
    for one, other in zip(run_onnx(quantized, x, list(names)), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=0.1 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("relu", "b"), None),
        (("conv2d", "mul"), None),
        (("b/c:0", "a b"), None),
        (("batch", "x"), None),
        (("input", "b"), ("input_1", "b")),
    ],
)
def test_names_that_other_values_have(names: Sequence[str], written: Sequence[str] | None) -> None:
    assert_the_same_everywhere(Named(names), written or names)


def test_one_value_twice_and_the_input() -> None:
    assert_the_same_everywhere(Repeated(()), ("first", "again", "pixels"))


def test_an_onnx_file_with_one_value_under_two_names(tmp_path: Path) -> None:
    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Relu", ["x"], ["maps"]),
        node("Identity", ["maps"], ["same"]),
        node("GlobalAveragePool", ["maps"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Dropout", ["flat"], ["flat2"]),
        node("Identity", ["x"], ["pixels"]),
    ]
    shapes: Mapping[str, list[int | str]] = {
        "maps": ["N", 3, 6, 6], "same": ["N", 3, 6, 6], "flat": ["N", 3], "flat2": ["N", 3], "pixels": ["N", 3, 6, 6],
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, ["N", 3, 6, 6])],
        [info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    teacher = load_model(ModelOptions(str(path), mean=(0.0,) * 3, std=(1.0,) * 3))
    assert list(teacher.probe) == list(shapes)
    torch.testing.assert_close(teacher.probe["maps"], teacher.probe["same"])
    torch.testing.assert_close(teacher.probe["maps"], teacher.probe["pixels"].relu())
    torch.testing.assert_close(teacher.probe["flat2"], teacher.probe["maps"].mean((2, 3)))


class Buffers(nn.Module):
    """A network with buffers of these names, which the exporter gives to values too."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.conv, self.names = nn.Conv2d(3, 4, 3), names
        for number, name in enumerate(names):
            self.register_buffer(name, torch.full((1, 4, 1, 1), 0.1 * number + 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for name in self.names:
            x = torch.relu(x) + getattr(self, name)
        return x.mean((2, 3))


@pytest.mark.parametrize("names", [["mean", "relu", "add_1"], ["input"], ["val_0", "conv2d"]])
def test_weights_that_are_called_like_values(names: list[str]) -> None:
    network = Buffers(names).eval()
    graph, x = graph_from_model(network, SPEC), torch.rand(3, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(graph.module(x), network(x))
        torch.testing.assert_close(torch.from_numpy(run_onnx(graph.onnx, x)[0]), network(x))
