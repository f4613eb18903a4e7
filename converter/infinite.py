"""Values that are infinite on purpose: padding below a max pool, masks before a softmax."""

import numpy as np
import onnx
from onnx import numpy_helper

# Infinities among the inputs come out again: values are moved, picked or added.
_CARRIERS = frozenset(
    {
        "Add", "Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "Identity", "Neg", "Pad", "Reshape",
        "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Sub", "Tile", "Transpose", "Trilu",
        "Unsqueeze", "Where",
    }
)  # fmt: skip


def infinite_values(model: onnx.ModelProto) -> set[str]:
    """Names of the values that hold an infinite constant of ``model``: no range is wide enough for them."""
    found = {tensor.name for tensor in model.graph.initializer if _is_infinite(tensor)}
    for node in model.graph.node:
        if node.op_type in ("Constant", "ConstantOfShape"):
            infinite = any(
                attribute.HasField("t") and _is_infinite(attribute.t) for attribute in node.attribute
            )
        else:
            infinite = node.op_type in _CARRIERS and not found.isdisjoint(node.input)
        if infinite:
            found.update(node.output)
    return found


def _is_infinite(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE) and bool(
        np.isinf(numpy_helper.to_array(tensor)).any()
    )
