"""ONNX Runtime's fused layers, taken apart, say what they said."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.errors import UnsupportedOperatorError
from converter.graph.unfused import take_fused_apart

pytestmark = pytest.mark.slow


def fused(operator: str, inputs: list[str], **attributes: Any) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    shapes = {"w": (3, 3, 3, 3) if operator == "FusedConv" else (3, 3), "b": (3,)}
    x = [2, 3, 6, 6] if operator == "FusedConv" else [2, 3]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], "fused", domain="com.microsoft", **attributes)],
        "net",
        [info("x", TensorProto.FLOAT, x)],
        [info("y", TensorProto.FLOAT, x)],
        [
            numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def outputs(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    result: np.ndarray = session.run(
        None, {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    )[0]
    return result


CONV, SUM, GEMM = ["x", "w", "b"], ["x", "w", "b", "x"], ["x", "w", "b"]
PADDED = {"pads": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "expected"),
    [
        ("FusedConv", CONV, PADDED | {"activation": "Relu"}, ["Conv", "Relu"]),
        ("FusedConv", SUM, PADDED | {"activation": "Relu"}, ["Conv", "Add", "Relu"]),
        ("FusedConv", CONV, PADDED | {"activation": "Sigmoid"}, ["Conv", "Sigmoid"]),
        (
            "FusedConv",
            ["x", "w"],
            PADDED | {"activation": "LeakyRelu", "activation_params": [0.3]},
            ["Conv", "LeakyRelu"],
        ),
        (
            "FusedConv",
            CONV,
            PADDED | {"activation": "Clip", "activation_params": [-0.5, 1.0]},
            ["Conv", "Clip"],
        ),
        (
            "FusedConv",
            CONV,
            PADDED | {"activation": "HardSigmoid", "activation_params": [0.2, 0.4]},
            ["Conv", "HardSigmoid"],
        ),
        ("FusedGemm", GEMM, {"alpha": 0.5, "transB": 1, "activation": "Relu"}, ["Gemm", "Relu"]),
        ("FusedGemm", GEMM, {"activation": "LeakyRelu", "activation_alpha": 0.2}, ["Gemm", "LeakyRelu"]),
    ],
)
def test_the_parts_say_the_same(
    operator: str, inputs: list[str], attributes: dict[str, Any], expected: list[str]
) -> None:
    model = fused(operator, inputs, **attributes)
    plain = take_fused_apart(model)
    onnx.checker.check_model(plain, full_check=True)
    assert [node.op_type for node in plain.graph.node] == expected
    assert plain.graph.node[0].name == "fused"
    np.testing.assert_allclose(outputs(plain), outputs(model), atol=1e-5)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(UnsupportedOperatorError, match="Clip, got Swish at node fused; give the file that"):
        take_fused_apart(fused("FusedConv", CONV, activation="Swish"))
