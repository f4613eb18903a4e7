"""A small mutable view of an ONNX graph, for passes that rewrite it."""

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from engines.onnx_passes.file import nodes, reads

Array = NDArray[Any]


class OnnxGraph:
    """Nodes, constants and static shapes of one model; ``model()`` gives the rewritten model back.

    ``nodes`` may be changed and appended in any order: ``model()`` sorts them and drops those whose outputs
    nobody reads. ``constants`` holds initializers and the values of ``Constant`` nodes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._base = onnx.ModelProto()
        self._base.CopyFrom(model)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.shapes = {
            value.name: _static_shape(value)
            for value in [*inferred.input, *inferred.output, *inferred.value_info]
        }
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        for node in self._base.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            else:
                self.nodes.append(node)
        self._names = {name for node in nodes(self._base.graph) for name in [*node.input, *node.output]}

    def producers(self) -> dict[str, NodeProto]:
        """Tensor name → the node that writes it."""
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[NodeProto]]:
        """Tensor name → the nodes that read it, also inside of their bodies; a graph output counts as no node."""
        readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(reads(node)):
                readers[name].append(node)
        return readers

    def unique(self, name: str) -> str:
        """``name``, or ``name`` with a number where the graph has it already."""
        candidate, count = name, 0
        while candidate in self._names or candidate in self.constants:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def constant(self, name: str, value: Array) -> str:
        """Adds a constant and gives its name; an equal constant that is there under this name is reused."""
        known = self.constants.get(name)
        if known is not None and known.dtype == value.dtype and np.array_equal(known, value):
            return name
        name = self.unique(name)
        self.constants[name] = value
        return name

    def add(self, op_type: str, inputs: list[str], output: str, **given: Any) -> str:
        """Appends a node that writes a new tensor, called ``output`` or nearly so, and gives its name."""
        return self.write(op_type, inputs, self.unique(output), **given)

    def write(self, op_type: str, inputs: list[str], output: str, *, name: str = "", **given: Any) -> str:
        """Appends a node that writes exactly ``output`` (the node that wrote it before must go)."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name or output, **given))
        return output

    def prune(self) -> None:
        """Drops the nodes that no graph output depends on and sorts the others topologically."""
        producers = self.producers()
        order: list[NodeProto] = []
        seen: set[int] = set()
        stack = [(name, False) for name in reversed(self.outputs)]
        while stack:
            name, ready = stack.pop()
            node = producers.get(name)
            if node is None or (id(node) in seen and not ready):
                continue
            if ready:
                order.append(node)
                continue
            seen.add(id(node))
            stack.append((name, True))
            stack.extend((source, False) for source in reversed(reads(node)))
        self.nodes = order

    def model(self) -> onnx.ModelProto:
        """The model of the present nodes, sorted, with the constants that they read."""
        self.prune()
        used = {name for node in self.nodes for name in reads(node)} | set(self.outputs)
        model = onnx.ModelProto()
        model.CopyFrom(self._base)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            for name, value in self.constants.items()
            if name in used
        )
        return model


def _static_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values."""
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def resize_mode(node: NodeProto) -> Literal["nearest", "linear"] | None:
    """How a ``Resize`` makes its values, where these stay within those of its input; None for all else.

    ``nearest`` picks values, ``linear`` averages them. Cubic weights may be negative, and a crop is filled.
    """
    given = attributes(node)
    if node.op_type != "Resize" or given.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        return None
    modes: dict[bytes, Literal["nearest", "linear"]] = {b"nearest": "nearest", b"linear": "linear"}
    return modes.get(given.get("mode", b"nearest"))


def is_scale(value: Array) -> bool:
    """Whether a constant can be a quantizer's scale: float32, positive and finite."""
    return bool(value.dtype == np.float32 and np.all((value > 0) & (value < np.inf)))
