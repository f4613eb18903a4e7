"""Names, parameters, devices and refusals of a twin, and constructs that exporters seldom write."""

import copy
import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from calibrators.zscgan.batch_norm import BatchStatistics, targets_from_model
from converter.errors import UnsupportedOperatorError
from converter.graph.twin import (
    nodes_by_value,
    onnx_name_of,
    output_names,
    parameter_of,
    twin_from_onnx,
    value_name,
)
from tests.converter.graph.twin.models import model_of, one_node_model

node = helper.make_node
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def conv_model(weight: str, bias: str, output: str = "y") -> onnx.ModelProto:
    constants = {weight: normal(4, 3, 3, 3), bias: normal(4)}
    return model_of([node("Conv", ["x", weight, bias], [output])], {"x": ["n", 3, 8, 8]}, [output], constants)


def assert_equals_onnx_runtime(model: onnx.ModelProto, *inputs: Any) -> fx.GraphModule:
    module = twin_from_onnx(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)}
    results = module(*map(torch.tensor, inputs))
    results = results if isinstance(results, tuple) else (results,)
    for ours, theirs in zip(results, session.run(None, feeds), strict=True):
        torch.testing.assert_close(ours.detach(), torch.tensor(theirs), rtol=1e-4, atol=1e-5)
    return module


def test_each_node_is_called_after_its_first_output_and_found_by_it() -> None:
    nodes = [
        node("Relu", ["input"], ["/a/Relu_output_0"]),
        node("Split", ["/a/Relu_output_0"], ["125", "125.1"], axis=1),
        node("Add", ["125", "125.1"], ["input.3"]),
    ]
    module = twin_from_onnx(model_of(nodes, {"input": ["n", 4]}, ["input.3", "125"]))
    found = nodes_by_value(module)
    assert list(found) == ["input", "/a/Relu_output_0", "125", "125.1", "input.3"]
    assert found["input"].op == "placeholder"
    assert found["input.3"].all_input_nodes == [found["125"], found["125.1"]]
    assert all(value_name(made) == name for name, made in found.items())
    assert output_names(module) == ("input.3", "125")
    assert output_names(copy.deepcopy(module)) == ("input.3", "125")
    assert list(nodes_by_value(copy.deepcopy(module))) == list(found)
    total, left = module(torch.tensor([[1.0, -2, 3, 4]]))
    assert total.tolist() == [[4, 4]]
    assert left.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "name",
    ["layer1.0.conv1.weight", "a", "w/conv", "onnx::Conv_123", "a..b", "125", "forward", "a.lambda", "x y"],
)
def test_a_weight_of_any_name_is_a_parameter(name: str) -> None:
    model = conv_model(name, f"{name}.bias")
    module = twin_from_onnx(model)
    weight = parameter_of(module, name)
    assert isinstance(weight, nn.Parameter)
    target = str(nodes_by_value(module)[name].target)
    assert module.get_parameter(target) is weight
    assert onnx_name_of(module, target) == name
    assert onnx_name_of(module, str(nodes_by_value(module)[f"{name}.bias"].target)) == f"{name}.bias"
    copied = copy.deepcopy(module)
    assert torch.equal(parameter_of(copied, name), weight)
    assert parameter_of(copied, name) is not weight
    assert_equals_onnx_runtime(model, normal(2, 3, 8, 8))


def test_a_usual_name_stays() -> None:
    module = twin_from_onnx(conv_model("layer1.0.conv1.weight", "layer1.0.conv1.bias"))
    assert set(dict(module.named_parameters())) == {"layer1.0.conv1.weight", "layer1.0.conv1.bias"}


def test_what_nobody_learned_is_a_buffer() -> None:
    nodes = [
        node("Sub", ["x", "mean"], ["centred"]),
        node("Unsqueeze", ["slope", "axes"], ["slopes"]),
        node("PRelu", ["centred", "slopes"], ["y"]),
    ]
    constants = {"mean": normal(1, 3, 1, 1), "slope": normal(3, 1), "axes": np.array([2])}
    model = model_of(nodes, {"x": ["n", 3, 2, 2]}, ["y"], constants)
    module = assert_equals_onnx_runtime(model, normal(2, 3, 2, 2))
    assert set(dict(module.named_parameters())) == {"slope"}
    assert set(dict(module.named_buffers())) == {"mean"}


def batch_norm_model(*names: str) -> onnx.ModelProto:
    constants = dict(zip(names, [normal(3), normal(3), normal(3), np.exp(normal(3))], strict=True))
    nodes = [
        node("BatchNormalization", ["x", *names], ["z"], epsilon=1e-3),
        node("BatchNormalization", ["z", *names], ["y"], epsilon=1e-3),
    ]
    return model_of(nodes, {"x": ["n", 3, 4, 4]}, ["y"], constants)


@pytest.mark.parametrize(
    "names",
    [("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"), ("scale", "b", "onnx::mean", "v/1")],
)
def test_batch_norms_are_modules_with_statistics(names: tuple[str, ...]) -> None:
    x = normal(5, 3, 4, 4)
    model = batch_norm_model(*names)
    module = assert_equals_onnx_runtime(model, x)
    assert len(targets_from_model(module)) == 2
    with BatchStatistics(module) as statistics:
        module.train()(torch.tensor(x))
        mean, _ = next(iter(statistics.moments().values()))
    torch.testing.assert_close(mean, torch.tensor(x).mean((0, 2, 3)))
    assert torch.equal(parameter_of(module, names[3]), torch.tensor(np.exp(0) * _array(model, names[3])))
    assert all(onnx_name_of(module, _target(module, name)) == name for name in names)
    assert isinstance(parameter_of(module, names[0]), nn.Parameter)
    assert len(dict(module.named_parameters())) == 2  # both read the same


def _array(model: onnx.ModelProto, name: str) -> Any:
    return next(onnx.numpy_helper.to_array(item) for item in model.graph.initializer if item.name == name)


def _target(module: fx.GraphModule, name: str) -> str:
    wanted = parameter_of(module, name)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return next(target for target, value in state.items() if value is wanted)


def test_batch_norms_read_weights_past_nodes_that_hand_them_on() -> None:
    nodes = [
        node("Identity", ["scale"], ["same"]),
        node("BatchNormalization", ["x", "same", "bias", "mean", "variance"], ["y"]),
    ]
    constants = {"scale": normal(3), "bias": normal(3), "mean": normal(3), "variance": np.exp(normal(3))}
    module = assert_equals_onnx_runtime(model_of(nodes, {"x": ["n", 3]}, ["y"], constants), normal(2, 3))
    assert nodes_by_value(module)["y"].op == "call_module"


def shape_model() -> onnx.ModelProto:
    """A view of any batch size as tracing writes it, Expand by a shape, and indices computed from a shape."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Unsqueeze", ["batch", "first"], ["batch1"]),
        node("Concat", ["batch1", "minus"], ["flat"], axis=0),
        node("Reshape", ["x", "flat"], ["rows"]),
        node("MatMul", ["rows", "w"], ["y0"]),
        node("Add", ["y0", "offset"], ["y1"]),
        node("Concat", ["batch1", "five"], ["wide"], axis=0),
        node("Expand", ["token", "wide"], ["tokens"]),
        node("Range", ["zero", "batch", "one"], ["places"]),
        node("Gather", ["y1", "places"], ["y2"]),
        node("Add", ["y2", "tokens"], ["y3"]),
        node("Cast", ["batch"], ["count"], to=TensorProto.FLOAT),
        node("Div", ["y3", "count"], ["y"]),
    ]
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "first": np.array([0]),
        "minus": np.array([-1]),
        "five": np.array([5]),
        "w": normal(12, 5),
        "offset": np.array(0.5, np.float32),
        "token": normal(1, 5),
    }
    return model_of(nodes, {"x": ["n", 3, 2, 2]}, ["y"], constants)


def test_shapes_are_computed_on_the_host_for_any_batch() -> None:
    for batch in (1, 2, 5):
        module = assert_equals_onnx_runtime(shape_model(), normal(batch, 3, 2, 2))
    assert "minus" not in dict(module.named_buffers())


def device_models() -> dict[str, onnx.ModelProto]:
    image = normal(2, 3, 8, 8)
    resize = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    return {
        "shapes": shape_model(),
        "conv": conv_model("conv.weight", "conv.bias"),
        "batch norm": batch_norm_model("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"),
        "resize": one_node_model(
            "Resize", [image], initializers={"roi": np.float32([]), "s": np.float32([1, 1, 1.5, 2])}, **resize
        ),
        "gather": one_node_model("Gather", [image], initializers={"i": np.array([[0, -1]])}, axis=2),
        "pad": one_node_model(
            "Pad", [image], initializers={"pads": np.array([0, 0, 1, 2, 0, 0, 2, 1])}, mode="reflect"
        ),
        "top k": model_of(
            [node("TopK", ["x", "k"], ["v", "i"])], {"x": [2, 3, 8, 8]}, ["v", "i"], {"k": np.array([3])}
        ),
        "filled": model_of(
            [
                node("Shape", ["x"], ["s"]),
                node("ConstantOfShape", ["s"], ["zeros"]),
                node("Add", ["x", "zeros"], ["y"]),
            ],
            {"x": ["n", 3, 8, 8]},
            ["y"],
        ),
    }


@pytest.mark.parametrize("name", device_models())
def test_a_twin_runs_where_it_was_moved(name: str) -> None:
    module = twin_from_onnx(device_models()[name])
    size = 2 if name == "shapes" else 8
    here = module(torch.empty(2, 3, size, size))
    with FakeTensorMode():  # a GPU that computes nothing, but refuses tensors of the CPU
        state = {
            key: torch.empty(value.shape, dtype=value.dtype, device="cuda")
            for key, value in itertools.chain(module.named_parameters(), module.named_buffers())
        }
        there = torch.func.functional_call(module, state, torch.empty(2, 3, size, size, device="cuda"))
    here, there = (result if isinstance(result, tuple) else (result,) for result in (here, there))
    assert [result.device.type for result in there] == ["cuda"] * len(there)
    assert [result.shape for result in there] == [result.shape for result in here]
    assert all(value.is_meta for value in module.to("meta").state_dict().values())


def test_a_module_can_be_put_on_an_edge() -> None:
    nodes = [
        node("Relu", ["x"], ["a.0"]),
        node("Conv", ["a.0", "w"], ["b"]),
        node("Add", ["a.0", "b"], ["y"]),
    ]
    module = twin_from_onnx(model_of(nodes, {"x": ["n", 2, 3, 3]}, ["y"], {"w": normal(2, 2, 1, 1)}))
    x = torch.tensor(normal(1, 2, 3, 3))
    before = copy.deepcopy(module)
    found = nodes_by_value(module)
    module.add_submodule("doubled", _Doubled())
    for source in (found["a.0"], found["w"]):
        with module.graph.inserting_after(source):
            doubled = module.graph.call_module("doubled", (source,))
        found["b"].replace_input_with(source, doubled)
    module.recompile()
    product = before(x) - x.relu()
    torch.testing.assert_close(module(x), x.relu() + 4 * product)
    assert value_name(doubled) == ""


class _Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_memory_formats_change_nothing() -> None:
    model = conv_model("w", "b")
    module, x = twin_from_onnx(model), torch.tensor(normal(2, 3, 8, 8))
    expected = module(x)
    moved = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(moved, expected)
    assert moved.is_contiguous(memory_format=torch.channels_last)


def test_state_can_be_loaded_and_half_precision_follows() -> None:
    module = twin_from_onnx(conv_model("conv.weight", "conv.bias"))
    other = twin_from_onnx(conv_model("conv.weight", "conv.bias"))
    other.load_state_dict(module.state_dict())
    x = torch.tensor(normal(1, 3, 8, 8))
    assert torch.equal(module(x), other(x))
    assert module.double()(x.double()).dtype == torch.float64


def test_every_operator_that_is_missing_is_named_at_once() -> None:
    nodes = [
        node("LSTM", ["x", "w", "r"], ["a"], name="first", hidden_size=2),
        node("LSTM", ["x", "w", "r"], ["b"], name="second", hidden_size=2),
        node("Inverse", ["x"], ["c"], name="third", domain="com.microsoft"),
        node("BatchNormalization", ["x", "w", "w", "w", "w"], ["d"], name="fourth", training_mode=1),
    ]
    inputs = dict.fromkeys(("x", "w", "r"), (1, 1, 1))
    model = model_of(nodes, inputs, ["a", "b", "c", "d"], opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedOperatorError) as error:
        twin_from_onnx(model)
    message = str(error.value)
    assert "ai.onnx.LSTM (opset 17) at node first, com.microsoft.Inverse (opset 1) at node third" in message
    assert "ai.onnx.BatchNormalization (opset 17) with training_mode=1 at node fourth" in message
    assert "second" not in message


@pytest.mark.parametrize(
    ("operator", "attributes", "named"),
    [
        ("Relu", {"slope": 1}, "attribute slope"),
        ("DepthToSpace", {"blocksize": 2, "mode": "XYZ"}, "mode=XYZ"),
        ("Relu", {"opset": 6}, "opset 6"),
    ],
)
def test_what_a_function_does_not_know_is_refused(operator: str, attributes: Any, named: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=named):
        twin_from_onnx(one_node_model(operator, [normal(1, 4, 2, 2)], **attributes))


def if_model(condition: list[onnx.NodeProto]) -> onnx.ModelProto:
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(operator, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, 1, None)]
        )
        for name, operator in (("then", "Neg"), ("else", "Abs"))
    }
    nodes = [*condition, node("If", ["c"], ["y"], **branches)]
    return model_of(nodes, {"x": [2]}, ["y"])


def test_a_branch_with_a_known_condition_is_taken() -> None:
    constant = helper.make_tensor("value", TensorProto.BOOL, [], [False])
    module = assert_equals_onnx_runtime(if_model([node("Constant", [], ["c"], value=constant)]), normal(2))
    assert module(torch.tensor([-1.0, 2.0])).tolist() == [1, 2]


def test_a_branch_that_depends_on_the_input_is_refused() -> None:
    nodes = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Cast", ["s"], ["c"], to=TensorProto.BOOL)]
    with pytest.raises(UnsupportedOperatorError, match=r"If .*condition that depends on the input"):
        twin_from_onnx(if_model(nodes))


def test_functions_of_the_model_are_put_in_place() -> None:
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [opset])
    model = model_of([node("Twice", ["x"], ["y"], domain="mine")], {"x": [2]}, ["y"])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert twin_from_onnx(model)(torch.tensor([1.0, 2.0])).tolist() == [2, 4]


def test_outputs_may_be_inputs_or_constants() -> None:
    nodes = [node("Shape", ["x"], ["shape"]), node("Constant", [], ["c"], value_floats=[1.0, 2.0])]
    module = twin_from_onnx(model_of(nodes, {"x": ["n", 3]}, ["x", "shape", "c"]))
    x = torch.tensor(normal(2, 3))
    same, shape, constant = module(x)
    assert same is x
    assert shape.tolist() == [2, 3]
    assert constant.tolist() == [1, 2]


IMAGE = normal(2, 4, 7, 6)
ODD: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "conv-1d-same": ("Conv", 11, {"w": normal(2, 4, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    "conv-valid": ("Conv", 11, {"w": normal(2, 4, 3, 3)}, {"auto_pad": "VALID", "dilations": [2, 1]}),
    "transposed-shape": (
        "ConvTranspose",
        11,
        {"w": normal(4, 2, 3, 3)},
        {"strides": [2, 2], "output_shape": [14, 13]},
    ),
    "transposed-same": (
        "ConvTranspose",
        11,
        {"w": normal(4, 1, 3, 3)},
        {"strides": [2, 3], "auto_pad": "SAME_UPPER", "group": 2},
    ),
    "max-pool-lopsided": (
        "MaxPool",
        12,
        {},
        {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0], "dilations": [2, 1]},
    ),
    "average-pool-ceil": (
        "AveragePool",
        19,
        {},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 0], "ceil_mode": 1},
    ),
    "softmax-11": ("Softmax", 11, {}, {}),
    "log-softmax-9": ("LogSoftmax", 9, {}, {"axis": 2}),
    "clip-9": ("Clip", 9, {}, {"min": -0.5, "max": 0.25}),
    "pad-9": ("Pad", 9, {}, {"pads": [0, 0, 1, 2, 0, 0, 2, -1], "mode": "constant", "value": 1.5}),
    "slice-9": ("Slice", 9, {}, {"starts": [1, -3], "ends": [100, -1], "axes": [1, 3]}),
    "upsample-9": ("Upsample", 9, {"s": np.float32([1, 1, 2, 1.5])}, {"mode": "nearest"}),
    "upsample-7": ("Upsample", 7, {}, {"mode": "linear", "scales": [1.0, 1.0, 2.0, 3.0]}),
    "resize-10": ("Resize", 10, {"s": np.float32([1, 1, 0.6, 2.3])}, {"mode": "nearest"}),
    "resize-sizes": (
        "Resize",
        13,
        {"roi": np.float32([]), "s": np.float32([]), "sizes": np.array([2, 4, 10, 5])},
        {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"},
    ),
    "resize-cubic-corners": (
        "Resize",
        13,
        {"roi": np.float32([]), "s": np.float32([]), "sizes": np.array([2, 4, 11, 9])},
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
    ),
    "resize-linear-scales": (
        "Resize",
        11,
        {"roi": np.float32([]), "s": np.float32([1, 1, 1.3, 0.7])},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    "batch-norm-of-vectors": (
        "InstanceNormalization",
        11,
        {"w": normal(4), "b": normal(4)},
        {"epsilon": 1e-2},
    ),
    "reduce-by-attribute": ("ReduceMean", 11, {}, {"axes": [-1, 1], "keepdims": 0}),
    "power": ("Pow", 13, {"two": np.array([2.0], np.float32)}, {}),
    "einsum": ("Einsum", 12, {"w": normal(4, 5)}, {"equation": "bchw,cd->bdhw"}),
}


@pytest.mark.parametrize("case", ODD)
def test_a_seldom_construct_equals_onnx_runtime(case: str) -> None:
    operator, opset, constants, attributes = ODD[case]
    assert_equals_onnx_runtime(
        one_node_model(operator, [IMAGE], opset=opset, initializers=constants, **attributes), IMAGE
    )
