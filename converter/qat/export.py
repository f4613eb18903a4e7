"""What was learned, back in the forms that the rest of the conversion takes."""

import copy
from collections.abc import Mapping

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from converter.graph.capture import FoldedGraph
from converter.graph.twin import onnx_name_of
from converter.qat.network import Student


def graph_from_student(graph: FoldedGraph, student: Student) -> FoldedGraph:
    """A copy of ``graph`` with the student's weights and biases in both forms; ``graph`` stays as it is."""
    names = {name for name, _ in graph.module.named_parameters()}
    learned = {name: value for name, value in student.module.named_parameters() if name in names}
    trained = {name: value.detach() for name, value in learned.items() if value.requires_grad}
    module = copy.deepcopy(graph.module)
    with torch.no_grad():
        for name, value in trained.items():
            module.get_parameter(name).copy_(value)
    named = {onnx_name_of(module, name): value for name, value in trained.items()}
    return FoldedGraph(module, with_initializers(graph.onnx, named))


def with_initializers(model: onnx.ModelProto, values: Mapping[str, Tensor]) -> onnx.ModelProto:
    """A copy of ``model`` in which the named initializers have these values."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for initializer in changed.graph.initializer:
        if initializer.name in values:
            value = values[initializer.name].cpu().contiguous().numpy()
            initializer.CopyFrom(numpy_helper.from_array(value, initializer.name))
    return changed
