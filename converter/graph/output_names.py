"""The values of an onnx-ir graph, and its outputs: each of its own with a name of its own."""

from collections.abc import Sequence

import onnx_ir as ir

from converter.graph.ir_values import free_name


def name_apart(graph: ir.Graph) -> None:
    """Give those values of ``graph`` another name, in place, that are called like a weight, and weights like an input.

    The exporter calls values by their operators, and weights as the network does: a buffer may be called ``mean``.
    """
    inputs = {value.name for value in graph.inputs}
    for value in [value for name, value in graph.initializers.items() if name in inputs]:
        value.name = free_name(graph, f"{value.name}_weight")
    taken = inputs | set(graph.initializers)
    for node in graph:
        for value in node.outputs:
            if value.name in taken:
                value.name = free_name(graph, node.op_type.lower())


def name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Give the outputs of ``graph`` these ``names``, in place.

    An output that is an input, a weight or another output too then comes of an Identity. Any other value of such a name
    gets a new one; inputs and weights keep theirs, and the output gets a new one.
    """
    for index, value in enumerate(list(graph.outputs)):
        if value.is_graph_input() or value.is_initializer() or value in graph.outputs[:index]:
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = None
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = free_name(graph, name)
    for node in graph:
        for value in node.outputs:
            if value.name is None:
                value.name = free_name(graph, node.op_type.lower())
