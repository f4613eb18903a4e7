"""ONNX models that can't be converted, told by their nodes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from converter.errors import LoadError
from engines.onnx_passes.file import nodes

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
_STANDARD = ("", "ai.onnx")
_INFERENCE = 14
"""The opset from which on an attribute says whether a batch norm trains; before, its further outputs said so."""


def refuse_unfit(model: onnx.ModelProto, path: Path) -> None:
    """Raise LoadError for a model that is quantized already, trains, or computes nothing."""
    if not model.graph.node:
        raise LoadError(f"expected a network, but {path} holds a graph without nodes; export it again")
    if (quantized := next(filter(_is_quantized, nodes(model.graph)), None)) is not None:
        raise LoadError(
            f"{path} is already quantized ({quantized.op_type}); expected the float model. To build an engine from it: "
            f"zscgan-build {path}"
        )
    if (training := next(_training(model), None)) is not None:
        raise LoadError(
            f"expected {path} in inference mode, but {training.op_type} at node {training.name or training.output[0]} "
            "is in training mode; call model.eval() and export it again"
        )


def _is_quantized(node: onnx.NodeProto) -> bool:
    return node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")


def _training(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The batch norms and dropouts that are in training mode."""
    opset = max((item.version for item in model.opset_import if item.domain in _STANDARD), default=0)
    true = {tensor.name for tensor in model.graph.initializer if _is_true(tensor)}
    for node in nodes(model.graph):
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant" and "value" in attributes and _is_true(attributes["value"]):
            true.add(node.output[0])
        trains = attributes.get("training_mode", 0)
        if node.op_type == "BatchNormalization" and opset < _INFERENCE:
            trains = any(node.output[1:])
        if node.op_type == "Dropout":
            trains = len(node.input) > 2 and node.input[2] in true
        if trains and node.domain in _STANDARD:
            yield node


def _is_true(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and bool(np.all(numpy_helper.to_array(tensor)))
