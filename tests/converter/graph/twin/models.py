"""ONNX models for the tests of a twin."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = Any


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    initializers: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    kinds: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of float32 inputs, but for ``kinds``; its outputs have no shape."""
    kinds = kinds or {}
    given = [
        helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.FLOAT), shape)
        for name, shape in inputs.items()
    ]
    made = [helper.make_value_info(name, onnx.TypeProto()) for name in outputs]
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in (initializers or {}).items()
    ]
    graph = helper.make_graph(nodes, "test", given, made, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def one_node_model(
    operator: str,
    inputs: Sequence[Array],
    *,
    opset: int = 17,
    kind: int | None = None,
    initializers: Mapping[str, Array] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """``operator`` on inputs ``x0``, ``x1``... shaped like ``inputs``, then on ``initializers``."""
    names = [f"x{number}" for number in range(len(inputs))]
    node = helper.make_node(operator, [*names, *(initializers or {})], ["y"], "node", **attributes)
    kinds = {
        name: kind or helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)
        for name, value in zip(names, inputs, strict=True)
    }
    shapes = {name: np.shape(value) for name, value in zip(names, inputs, strict=True)}
    return model_of([node], shapes, ["y"], initializers, opset=opset, kinds=kinds)
