"""ONNX Runtime's fused operators taken apart again: what they fuse is quantized, they themselves are not."""

from typing import Any

import onnx
from onnx import helper

from converter.errors import UnsupportedOperatorError

_MICROSOFT = "com.microsoft"
_PARTS = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_PARAMETERS = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}
"""The activations that are fused, with their parameters in order."""


def take_fused_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with each FusedConv and FusedGemm as its layer, its sum and its activation; a copy if there are any.

    Raises UnsupportedOperatorError for an activation that isn't known.
    """
    if not any(_is_fused(node) for node in model.graph.node):
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.node[:]
    for node in model.graph.node:
        plain.graph.node.extend(_parts(node, plain.graph) if _is_fused(node) else [node])
    return plain


def _is_fused(node: onnx.NodeProto) -> bool:
    return node.domain == _MICROSOFT and node.op_type in _PARTS


def _parts(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    attributes = {item.name: item for item in node.attribute if not item.name.startswith("activation")}
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    (result,) = node.output
    activation = values.get("activation", b"").decode()
    layer = helper.make_node(_PARTS[node.op_type], node.input[:3], [f"{result}_layer"], node.name)
    layer.attribute.extend(attributes.values())
    parts = [layer]
    if len(node.input) > 3 and node.input[3]:
        parts.append(helper.make_node("Add", [parts[-1].output[0], node.input[3]], [f"{result}_sum"]))
    if activation:
        parts.append(_activation(node, activation, values, parts[-1].output[0], graph))
    parts[-1].output[0] = result
    return parts


def _activation(
    node: onnx.NodeProto, kind: str, values: dict[str, Any], source: str, graph: onnx.GraphProto
) -> onnx.NodeProto:
    """The activation of ``node``, whose parameters are one attribute for all of FusedConv and one each of FusedGemm."""
    if kind not in _PARAMETERS:
        raise UnsupportedOperatorError(
            f"expected {node.op_type} with an activation of {', '.join(_PARAMETERS)}, got {kind} at node "
            f"{node.name or node.output[0]}; give the file that ONNX Runtime has not optimized"
        )
    names = _PARAMETERS[kind]
    given = values.get("activation_params")
    numbers = list(given) if isinstance(given, list) else [values[f"activation_{name}"] for name in names]
    parameters: dict[str, Any] = dict(zip(names, map(float, numbers), strict=True))
    if kind != "Clip":
        return helper.make_node(kind, [source], [""], **parameters)
    bounds = [f"{node.output[0]}_{name}" for name in names]
    for bound, number in zip(bounds, parameters.values(), strict=True):
        graph.initializer.append(helper.make_tensor(bound, onnx.TensorProto.FLOAT, [], [number]))
    return helper.make_node(kind, [source, *bounds], [""])
