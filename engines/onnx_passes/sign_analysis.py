"""Which tensors of a network can't be negative, from the operators alone."""

import numpy as np
from onnx import NodeProto

from engines.onnx_passes.graph import OnnxGraph, attributes, resize_mode

# The result is never negative, whatever comes in.
_ALWAYS = frozenset(
    {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt", "ReduceL2"}
)
# The result is not negative where the first input is not: values are moved, picked or averaged.
_KEEPS_FIRST = frozenset(
    {
        "AveragePool", "DepthToSpace", "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather",
        "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool", "QuantizeLinear", "ReduceMax",
        "ReduceMean", "ReduceSum", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
# The result is not negative where no input is.
_KEEPS_ALL = frozenset({"Add", "Concat", "Max", "Mean", "Min", "Mul", "Sum"})


def nonnegative_tensors(graph: OnnxGraph) -> set[str]:
    """Names of the tensors that are ≥ 0 for every input of the network.

    A lower bound by one pass in topological order: a tensor that is missing here may still be
    non-negative. An average over padding counts zeros, so pools keep the property with any padding.
    """
    known = {name for name, value in graph.constants.items() if _is_number(value) and np.all(value >= 0)}
    for node in graph.nodes:
        if _is_nonnegative(node, graph, known):
            known.update(node.output)
    return known


def _is_nonnegative(node: NodeProto, graph: OnnxGraph, known: set[str]) -> bool:
    kind = node.op_type
    if kind in _ALWAYS:
        return True
    if kind == "Clip":
        return node.input[0] in known or clip_bounds(node, graph)[0] >= 0
    if kind == "Pad":
        constant = attributes(node).get("mode", b"constant") == b"constant"
        filled = len(node.input) > 2 and node.input[2] and constant
        return node.input[0] in known and (not filled or node.input[2] in known)
    if kind in _KEEPS_FIRST or resize_mode(node) is not None:
        return node.input[0] in known
    return kind in _KEEPS_ALL and all(name in known for name in node.input)


def clip_bounds(node: NodeProto, graph: OnnxGraph) -> tuple[float, float]:
    """Lower and upper bound of a ``Clip`` node; NaN where the bound is computed by the network."""
    bounds = []
    for index, absent in ((1, -np.inf), (2, np.inf)):
        name = node.input[index] if len(node.input) > index else ""
        value = graph.constants.get(name)
        bounds.append(absent if not name else float(value) if value is not None else np.nan)
    return bounds[0], bounds[1]


def _is_number(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    return bool(np.issubdtype(value.dtype, np.number))
