"""Batch norms, computed weights and idle nodes of ONNX models, taken out without changing what the model says."""

from collections import Counter
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_onnx, observe
from converter.graph.simplify import prepare, simplify
from converter.quantize.placement import place_quantizers
from converter.quantize.qdq import qdq_from_onnx

pytestmark = pytest.mark.slow


def exported(module: nn.Module) -> onnx.ModelProto:
    """``module`` in eval mode as the exporter writes it, before its own optimizer; its norms have random numbers."""
    random = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm | FrozenBatchNorm2d):
            for name in ("running_mean", "bias", "weight"):
                getattr(norm, name).data.normal_(generator=random)
            norm.running_var.uniform_(0.5, 2.0, generator=random)
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 3, 8, 8),),
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim("batch", max=65535)},),
    )
    assert program is not None
    return program.model_proto


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {model.graph.input[0].name: x})[0]
    return result


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


class Shared(nn.Module):
    """One convolution that is called twice, each time with a batch norm of its own behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x))))  # type: ignore[no-any-return]


class ReadTwice(nn.Module):
    """A convolution that a batch norm is not the only one to read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) * y  # type: ignore[no-any-return]


class SharedWeight(nn.Module):
    """Two convolutions with one weight, a batch norm behind the first alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu())  # type: ignore[no-any-return]


CASES: dict[str, tuple[nn.Module, list[str]]] = {
    "conv, norm, norm": (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU()),
        ["Conv", "Relu"],
    ),
    "grouped": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), ["Conv"]),
    "transposed": (
        nn.Sequential(
            nn.ConvTranspose2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ConvTranspose2d(8, 4, 2, groups=2, bias=False),
            nn.BatchNorm2d(4),
        ),
        ["ConvTranspose", "ConvTranspose"],
    ),
    "linear": (
        nn.Sequential(nn.Flatten(1), nn.Linear(192, 5), nn.BatchNorm1d(5), nn.BatchNorm1d(5)),
        ["Reshape", "Gemm"],
    ),
    "frozen": (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), FrozenBatchNorm2d(4), nn.ReLU()),
        ["Conv", "Relu"],
    ),
    "weight norm": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)),
        ["Conv"],
    ),
    "spectral norm": (nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))), ["Conv"]),
    "shared": (Shared(), ["Conv", "Conv"]),
    "shared weight": (SharedWeight(), ["Conv", "Relu", "Conv"]),
    "before a padded convolution": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
        ["BatchNormalization", "Conv"],
    ),
    "read twice": (ReadTwice(), ["Conv", "BatchNormalization", "Mul"]),
    "dropout": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.Identity(), nn.ReLU()), ["Conv", "Relu"]),
}


@cache
def case(name: str) -> onnx.ModelProto:
    """The exported network of a case; not to be changed."""
    return exported(CASES[name][0])


@pytest.mark.parametrize("name", CASES)
def test_the_simplified_model_says_the_same(name: str) -> None:
    model, expected = case(name), CASES[name][1]
    simplified = simplify(model)
    onnx.checker.check_model(simplified, full_check=True)
    assert operators(simplified) == expected
    x = np.random.default_rng(0).standard_normal((5, 3, 8, 8), np.float32)
    theirs = outputs(model, x)
    np.testing.assert_allclose(outputs(simplified, x), theirs, atol=2e-6 * np.abs(theirs).max(), rtol=0)


def flattened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives one row for each input."""
    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    flat.graph.node.append(helper.make_node("Flatten", [flat.graph.output[0].name], ["rows"]))
    flat.graph.output[0].CopyFrom(helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, None]))
    return flat


@pytest.mark.parametrize("name", CASES)
def test_what_is_folded_is_what_gets_quantized(name: str) -> None:
    """The INT8 model, whose weights are the folded ones, against ONNX Runtime on the model with its batch norms."""
    model = flattened(case(name))
    graph = graph_from_onnx(model, InputSpec((3, 8, 8)))
    plan = place_quantizers(graph.onnx)
    layers = [node for node in graph.onnx.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert [weight.tensor for weight in plan.weights] == [layer.input[1] for layer in layers]
    x = np.random.default_rng(0).standard_normal((5, 3, 8, 8), np.float32)
    values = observe(graph.module, torch.from_numpy(x), plan.observed)[1]
    int8 = qdq_from_onnx(graph.onnx, plan, {key: float(value.abs().max()) for key, value in values.items()})
    onnx.checker.check_model(int8, full_check=True)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    folded = {tensor.name: numpy_helper.to_array(tensor) for tensor in simplify(model).graph.initializer}
    for planned in plan.weights:
        scale, weight = stored[f"{planned.tensor}_scale"], folded[planned.tensor]
        others = tuple(axis for axis in range(weight.ndim) if axis != planned.axis)
        steps = weight / np.expand_dims(scale, others) - stored[f"{planned.tensor}_quantized"]
        assert np.abs(steps).max() <= 0.5 + 1e-4
    theirs = outputs(model, x)
    np.testing.assert_allclose(outputs(int8, x), theirs, atol=0.04 * np.abs(theirs).max(), rtol=0)


def test_folded_weights_are_rounded_once() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    folded = {t.name: numpy_helper.to_array(t) for t in simplify(exported(module)).graph.initializer}
    conv, norm = module
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = conv.weight.double() * factor.view(-1, 1, 1, 1)
    bias = (conv.bias.double() - norm.running_mean.double()) * factor + norm.bias.double()
    # epsilon is a float32 attribute in ONNX
    np.testing.assert_allclose(folded["0.weight"], weight.detach().float().numpy(), rtol=1e-7)
    np.testing.assert_allclose(folded["0.bias"], bias.detach().float().numpy(), rtol=1e-6)


def test_a_prepared_model_keeps_its_batch_norms() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    assert operators(prepare(exported(module))) == ["Conv", "BatchNormalization"]


def small_model(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 13
) -> onnx.ModelProto:
    """A model from ``x`` to ``y``, whose initializers are listed as inputs too, as in files of IR version 3."""
    info = helper.make_tensor_value_info
    inputs = [info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    inputs += [info(name, TensorProto.FLOAT, value.shape) for name, value in weights.items()]
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


@pytest.mark.parametrize(
    ("operator", "constant_first"),
    [("Mul", False), ("Mul", True), ("Add", True), ("Sub", False), ("Sub", True), ("Div", False)],
)
def test_scales_and_shifts_are_folded(operator: str, constant_first: bool) -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 3, 3, 3)), "c": random.uniform(0.5, 2, (1, 4, 1, 1))}
    reads = ["c", "z"] if constant_first else ["z", "c"]
    model = small_model(
        [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node(operator, reads, ["y"])], weights
    )
    simplified = simplify(model)
    assert operators(simplified) == ["Conv"]
    assert [value.name for value in simplified.graph.input] == ["x"]
    x = random.standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(simplified, x), outputs(model, x), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (4, 1, 1, 1), (1, 1, 1, 4, 1, 1)])
def test_a_constant_that_is_not_one_number_a_channel_stays(shape: tuple[int, ...]) -> None:
    weights = {"w": np.ones((4, 3, 3, 3)), "c": np.full(shape, 2.0)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Mul", ["z", "c"], ["y"])]
    assert Counter(operators(simplify(small_model(nodes, weights)))) == {"Conv": 1, "Mul": 1}


def test_gemm_with_alpha_and_beta() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((192, 5)), "b": random.standard_normal(5)}
    weights |= {name: random.uniform(0.5, 2, 5) for name in ("gamma", "beta", "mean", "variance")}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["z"], alpha=0.5, beta=3.0),
        helper.make_node("BatchNormalization", ["z", "gamma", "beta", "mean", "variance"], ["y"]),
    ]
    model = small_model(nodes, weights)
    simplified = simplify(model)
    assert operators(simplified) == ["Flatten", "Gemm"]
    x = random.standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(simplified, x), outputs(model, x), atol=1e-5)


def test_a_batch_norm_in_training_mode_stays() -> None:
    weights = {"w": np.ones((4, 3, 3, 3))} | {
        name: np.ones(4) for name in ("gamma", "beta", "mean", "variance")
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["z"]),
        helper.make_node(
            "BatchNormalization", ["z", "gamma", "beta", "mean", "variance"], ["y", "m", "v"], training_mode=1
        ),
    ]
    assert "BatchNormalization" in operators(simplify(small_model(nodes, weights, opset=15)))
