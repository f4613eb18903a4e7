"""The size of each layer of an ONNX model: multiply-adds for one input, and parameters."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from converter.graph.capture import BATCH


@dataclass(frozen=True)
class Layer:
    """One node, by its first output; ``macs`` are the multiply-adds of one input, 0 where it multiplies nothing."""

    name: str
    op: str
    macs: int
    parameters: int


def layers_from_onnx(model: onnx.ModelProto) -> dict[str, Layer]:
    """Every node of ``model`` by its first output, in the graph's order."""
    sizes = _sizes(model)
    constants = {value.name: tuple(value.dims) for value in model.graph.initializer}
    return {
        node.output[0]: Layer(
            node.output[0],
            node.op_type,
            _macs(node, sizes, constants),
            0 if node.output[0] in constants else sum(math.prod(constants.get(n, (0,))) for n in node.input),
        )
        for node in model.graph.node
    }


def _macs(
    node: onnx.NodeProto,
    sizes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, tuple[int, ...]],
) -> int:
    """Multiply-adds: those of each value of the result, or, for a transposed convolution, of the input."""
    result, data = sizes.get(node.output[0]), sizes.get(node.input[0]) if node.input else None
    if result is None or data is None:
        return 0
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = constants.get(node.input[1]) or sizes.get(node.input[1], (0, 0))
        return math.prod(data if node.op_type == "ConvTranspose" else result) * math.prod(weight[1:])
    if node.op_type in ("Gemm", "MatMul"):
        return math.prod(result) * data[-1]
    if node.op_type == "Einsum":
        return _macs_of_einsum(node, [constants.get(name) or sizes.get(name, ()) for name in node.input])
    return 0


def _macs_of_einsum(node: onnx.NodeProto, shapes: Sequence[tuple[int, ...]]) -> int:
    """One for each combination of the labels; 0 for an equation with an ellipsis."""
    equation = next(helper.get_attribute_value(a).decode() for a in node.attribute if a.name == "equation")
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if "." in equation or any(len(term) != len(shape) for term, shape in zip(terms, shapes, strict=True)):
        return 0
    return math.prod(
        {c: size for pair in zip(terms, shapes, strict=True) for c, size in zip(*pair, strict=True)}.values()
    )


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of each declared value for one input; an axis of ``12*batch`` counts 12."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {value.name: tuple(map(_size, value.type.tensor_type.shape.dim)) for value in values}


def _size(dim: onnx.TensorShapeProto.Dimension) -> int:
    if BATCH not in dim.dim_param:
        return int(dim.dim_value)
    factor = re.fullmatch(rf"\(?(\d+)\s*\*\s*{BATCH}\)?", dim.dim_param)
    return int(factor[1]) if factor else 1
