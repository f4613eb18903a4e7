"""Matrix products as quantizers and TensorRT want them: a MatMul with its weights, if any, on the right.

Two rewrites of an ONNX graph, in place. ``matmul(weight, x)`` multiplies the transposes in the other order. An einsum
of two operands, which no quantization rule knows, becomes a MatMul between transposes: in the labels of

    ``bnd,hde->bhne``   n stands in one operand alone, d is summed over, h and e stand in the other one alone

the left operand gets ``[rest, shared, row, summed]`` and the right one ``[shared, summed, columns]``, where ``shared``
labels stand in both operands and in the result. Labels of weights have known sizes, so several of them are one axis of
the product; of two activations each kind of label must be one axis already, or the einsum stays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converter.graph.ir_values import constant_of, new_constant


def rewrite_products(graph: ir.Graph) -> None:
    """Put weights on the right of each product of ``graph``, and write einsums as products where that is possible."""
    for node in list(graph):
        if node.domain:
            continue
        if node.op_type == "Einsum":
            _rewrite_einsum(graph, node)
        elif node.op_type == "MatMul":
            _turn(graph, node)


def _turn(graph: ir.Graph, node: ir.Node) -> None:
    """Write ``matmul(weight, x)`` as ``matmul(x.mT, weight.mT).mT``."""
    weight, x = node.inputs
    if weight is None or x is None or constant_of(x) is not None or x.shape is None or len(x.shape) < 2:
        return
    numbers = constant_of(weight)
    if numbers is None or numbers.ndim != 2:
        return
    swapped = [*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2]
    turned = _Chain(graph, node)
    right = turned.constant(f"{weight.name}_transposed", np.ascontiguousarray(numbers.T))
    left = turned.transposed(x, swapped)
    turned.finish(turned.add("MatMul", [left, right]), swapped)


@dataclass(frozen=True)
class _Labels:
    """An einsum's labels by their part in the product; see the module."""

    left: str
    right: str
    result: str

    @property
    def shared(self) -> str:
        return "".join(c for c in self.result if c in self.left and c in self.right)

    @property
    def summed(self) -> str:
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    @property
    def rows(self) -> str:
        return "".join(c for c in self.left if c not in self.right)

    @property
    def columns(self) -> str:
        return "".join(c for c in self.right if c not in self.left)

    def is_product(self) -> bool:
        """Whether each label has one part, and each part a label."""
        plain = all(len(set(part)) == len(part) for part in (self.left, self.right, self.result))
        alone = set(self.rows + self.columns) <= set(self.result)
        return plain and alone and bool(self.summed and self.rows and self.columns)


def _rewrite_einsum(graph: ir.Graph, node: ir.Node) -> None:
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    inputs = [value for value in node.inputs if value is not None]
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation or len(inputs) != 2:
        return
    left, right = terms.split(",")
    if constant_of(inputs[0]) is not None:
        (left, right), inputs = (right, left), inputs[::-1]
    labels, weight = _Labels(left, right, result), constant_of(inputs[1])
    if not labels.is_product() or constant_of(inputs[0]) is not None:
        return
    if weight is None and (len(labels.summed) > 1 or len(labels.columns) > 1):
        return
    chain = _Chain(graph, node)
    rows = (*labels.rows[:-1], *labels.shared, labels.rows[-1])
    x = chain.transposed(inputs[0], [left.index(c) for c in (*rows, *labels.summed)])
    order = [right.index(c) for c in (*labels.shared, *labels.summed, *labels.columns)]
    if weight is None:
        product = chain.add("MatMul", [x, chain.transposed(inputs[1], order)])
    else:
        sizes = {c: weight.shape[right.index(c)] for c in right}
        shape = [sizes[c] for c in labels.shared]
        shape += [math.prod(sizes[c] for c in part) for part in (labels.summed, labels.columns)]
        matrix = np.ascontiguousarray(weight.transpose(order)).reshape(shape)
        if len(labels.summed) > 1:
            x = chain.reshaped(x, [*[0] * len(rows), shape[-2]])
        product = chain.add("MatMul", [x, chain.constant(f"{inputs[1].name}_matrix", matrix)])
        if len(labels.columns) > 1:
            product = chain.reshaped(product, [*[0] * len(rows), *(sizes[c] for c in labels.columns)])
    made = (*rows, *labels.columns)
    chain.finish(product, [made.index(c) for c in result])


class _Chain:
    """New nodes in the place of one old node."""

    def __init__(self, graph: ir.Graph, old: ir.Node) -> None:
        self.graph, self.old = graph, old
        self.nodes: list[ir.Node] = []

    def add(self, op: str, inputs: Sequence[ir.Value], **attributes: Sequence[int]) -> ir.Value:
        """The result of a node, of the old one's type."""
        node = ir.node(op, inputs, attributes)
        node.outputs[0].type = self.old.outputs[0].type
        self.nodes.append(node)
        return node.outputs[0]

    def transposed(self, x: ir.Value, order: Sequence[int]) -> ir.Value:
        """``x`` with its axes in ``order``: itself where they are."""
        return x if list(order) == sorted(order) else self.add("Transpose", [x], perm=order)

    def reshaped(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        return self.add("Reshape", [x, self.constant("shape", np.array(shape, np.int64))])

    def constant(self, name: str, numbers: NDArray[np.generic]) -> ir.Value:
        """An initializer; an equal one of this name is taken again, as for a weight that several nodes read."""
        known = self.graph.initializers.get(name)
        held = constant_of(known)
        if known is not None and held is not None and np.array_equal(held, numbers):
            return known
        return new_constant(self.graph, name, numbers)

    def finish(self, result: ir.Value, order: Sequence[int]) -> None:
        """Put all in, with ``result`` in ``order`` under the old node's name."""
        self.transposed(result, order)
        ir.convenience.replace_nodes_and_values(
            self.graph, self.old, [self.old], self.nodes, [self.old.outputs[0]], [self.nodes[-1].outputs[0]]
        )
