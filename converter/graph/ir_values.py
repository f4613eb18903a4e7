"""Constants and names of an onnx-ir graph."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def constant_of(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The numbers of an initializer, or None."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def free_name(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name`` with a number where a value of ``graph`` has it already."""
    taken = {*graph.initializers, *(value.name for value in graph.inputs)}
    taken |= {output.name for node in graph for output in node.outputs}
    number = 0
    while (candidate := f"{name}_{number}" if number else name) in taken:
        number += 1
    return candidate


def new_constant(graph: ir.Graph, name: str, numbers: NDArray[np.generic]) -> ir.Value:
    """A new initializer called ``name`` or nearly so."""
    value = ir.Value(name=free_name(graph, name), const_value=ir.tensor(numbers))
    value.shape, value.dtype = ir.Shape(numbers.shape), ir.DataType.from_numpy(numbers.dtype)
    graph.register_initializer(value)
    return value
