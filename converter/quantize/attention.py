"""Which products of two activations stay in float: those for which TensorRT has no INT8 kernel that is worth it.

The rules are those of NVIDIA's ModelOpt 0.47 (``modelopt/onnx/quantization``), which quantizes both operands of every
MatMul but these:

* its result has one row or one column (``find_nodes_from_matmul_to_exclude``);
* it has fewer than 16 columns or summands (the same);
* it belongs to an attention over more than 512 tokens (``find_nodes_from_mha_to_exclude``), whatever stands between
  its two products and their softmax;
* it belongs to an attention that adds a mask which depends on the input (``partitioning.find_mha_partitions``).

A size that depends on the batch counts as large.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx

Shapes = Mapping[str, Sequence[int | str]]

MIN_SIZE, _MAX_TOKENS = 16, 512
_BETWEEN = ("Add", "Cast", "Div", "Flatten", "Mul", "Reshape", "Transpose")


def products_in_float(
    nodes: Collection[onnx.NodeProto], constants: Collection[str], shapes: Shapes
) -> set[str]:
    """The first outputs of the MatMuls that stay in float although both operands are activations."""
    found = {node.output[0] for node in nodes if node.op_type == "MatMul" and _is_small(node, shapes)}
    makers = {name: node for node in nodes for name in node.output}
    for softmax in nodes:
        if softmax.op_type != "Softmax":
            continue
        before = _products_before(softmax, makers, constants)
        behind = _products_behind(softmax, nodes)
        if behind and any(
            _exceeds(shapes.get(product.output[0], (0,))[-1], _MAX_TOKENS)
            or _adds_mask(makers[softmax.input[0]], product, constants)
            for product in before
        ):
            found |= {node.output[0] for node in (*before, *behind)}
    return found


def _is_small(node: onnx.NodeProto, shapes: Shapes) -> bool:
    result, right = shapes.get(node.output[0], ()), shapes.get(node.input[1], ())
    if min(len(result), len(right)) < 2 or 1 in result[-2:]:
        return True
    return not (_exceeds(result[-1], MIN_SIZE - 1) and _exceeds(right[-2], MIN_SIZE - 1))


def _exceeds(size: int | str, limit: int) -> bool:
    return isinstance(size, str) or size > limit


def _products_before(
    softmax: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], constants: Collection[str]
) -> list[onnx.NodeProto]:
    """The MatMuls of two activations whose scores ``softmax`` gets."""
    waiting, found = list(softmax.input[:1]), []
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or any(
            name in constants for name in node.input[: 2 if node.op_type == "MatMul" else 0]
        ):
            continue
        if node.op_type == "MatMul":
            found.append(node)
        elif node.op_type in _BETWEEN:
            waiting.extend(node.input)
    return found


def _products_behind(softmax: onnx.NodeProto, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The MatMuls that read the weights which ``softmax`` gives; ``nodes`` are sorted."""
    carried, found = set(softmax.output), []
    for node in nodes:
        if carried.isdisjoint(node.input):
            continue
        if node.op_type == "MatMul":
            found.append(node)
        elif node.op_type in _BETWEEN:
            carried.update(node.output)
    return found


def _adds_mask(node: onnx.NodeProto, product: onnx.NodeProto, constants: Collection[str]) -> bool:
    """Whether ``node`` adds to the result of ``product`` what depends on the input."""
    return (
        node.op_type == "Add"
        and product.output[0] in node.input
        and not any(name in constants for name in node.input)
    )
