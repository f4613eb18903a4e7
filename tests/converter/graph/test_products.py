"""Products with their weights on the right, and einsums as products: the same numbers, in nodes that are quantized."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converter.graph.simplify import prepare
from converter.quantize.placement import place_quantizers
from tests.converter.reference import run_onnx

pytestmark = pytest.mark.slow

SIZES = {"b": 3, "c": 4, "h": 5, "w": 6, "k": 7, "d": 2}


def shape_of(term: str) -> tuple[int, ...]:
    return tuple(SIZES[label] for label in term)


def model_of(node: onnx.NodeProto, x: str, result: str, weight: np.ndarray | None) -> onnx.ModelProto:
    """One node from x, whose batch is open, to logits."""
    info = helper.make_tensor_value_info
    axes = ["batch", *shape_of(x)[1:]]
    tensors = [] if weight is None else [numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(
        [node],
        "g",
        [info("input", TensorProto.FLOAT, axes)],
        [info("logits", TensorProto.FLOAT, [None] * len(result))],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("x", "weight", "result"),
    [
        ("bchw", "kc", "bkhw"),  # a 1x1 convolution
        ("bchw", "kch", "bkw"),  # two labels summed over
        ("bchw", "cdk", "bhwdk"),  # two columns
        ("bch", "hdk", "bcdk"),
        ("bch", "chk", "bck"),  # one weight for each channel
        ("bchw", "ckw", "bhck"),
        ("bc", "kc", "bk"),
    ],
)
@pytest.mark.parametrize("weight_first", [False, True])
def test_einsum_with_weights(x: str, weight: str, result: str, *, weight_first: bool) -> None:
    values, numbers = random(*shape_of(x)), random(*shape_of(weight))
    terms, names = [x, weight], ["input", "weight"]
    if weight_first:
        terms, names = terms[::-1], names[::-1]
    node = helper.make_node("Einsum", names, ["logits"], equation=f"{','.join(terms)}->{result}")
    prepared = prepare(model_of(node, x, result, numbers.numpy()))
    assert {n.op_type for n in prepared.graph.node} <= {"MatMul", "Reshape", "Transpose"}
    expected = torch.einsum(f"{x},{weight}->{result}", values, numbers)
    torch.testing.assert_close(
        torch.from_numpy(run_onnx(prepared, values)[0]), expected, rtol=1e-5, atol=1e-5
    )
    inferred = onnx.shape_inference.infer_shapes(prepared, strict_mode=True)
    (quantizer,) = place_quantizers(inferred).weights
    (matrix,) = (tensor for tensor in prepared.graph.initializer if tensor.name == quantizer.tensor)
    assert quantizer.axis == len(matrix.dims) - 1


@pytest.mark.parametrize(
    "equation", ["bch,bwh->bcw", "bch,bcw->bhw", "bch,bch->bc", "bch,bch->bch", "...h,bwh->...w"]
)
def test_einsum_of_two_activations(equation: str) -> None:
    values = random(3, 4, 5)
    result = equation.split("->")[1]
    node = helper.make_node("Einsum", ["input", "input"], ["logits"], equation=equation)
    prepared = prepare(model_of(node, "bch", result.replace("...", "bc"), None))
    expected = torch.einsum(equation, values, values)
    torch.testing.assert_close(
        torch.from_numpy(run_onnx(prepared, values)[0]), expected, rtol=1e-5, atol=1e-5
    )
    is_product = equation in ("bch,bwh->bcw", "bch,bcw->bhw")
    assert ("MatMul" in {n.op_type for n in prepared.graph.node}) == is_product


def test_weights_on_the_left_move_to_the_right() -> None:
    values, numbers = random(3, 2, 4, 5), random(6, 4)
    node = helper.make_node("MatMul", ["weight", "input"], ["logits"])
    proto = model_of(node, "bdch", "bdkh", numbers.numpy())
    prepared = onnx.shape_inference.infer_shapes(prepare(proto), strict_mode=True)
    torch.testing.assert_close(torch.from_numpy(run_onnx(prepared, values)[0]), numbers @ values)
    (weight,) = place_quantizers(prepared).weights
    assert (weight.tensor, weight.axis) == ("weight_transposed", 1)


def test_weights_that_two_products_read_are_kept_once() -> None:
    numbers = random(4, 4).numpy()
    nodes = [
        helper.make_node("MatMul", ["weight", "input"], ["a"]),
        helper.make_node("MatMul", ["weight", "a"], ["logits"]),
    ]
    proto = model_of(nodes[0], "bch", "bch", numbers)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    prepared = prepare(proto)
    assert [tensor.name for tensor in prepared.graph.initializer] == ["weight_transposed"]
    values = random(3, 4, 5)
    expected = torch.from_numpy(numbers) @ (torch.from_numpy(numbers) @ values)
    torch.testing.assert_close(
        torch.from_numpy(run_onnx(prepared, values)[0]), expected, rtol=1e-5, atol=1e-5
    )


def test_indices_of_int32_are_widened() -> None:
    values, places = random(3, 4, 5), np.array([[0], [2]], np.int32)
    node = helper.make_node("GatherND", ["input", "weight"], ["logits"])
    prepared = prepare(model_of(node, "bch", "dch", places))
    onnx.checker.check_model(prepared, full_check=True)
    torch.testing.assert_close(torch.from_numpy(run_onnx(prepared, values)[0]), values[[0, 2]])
