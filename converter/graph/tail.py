"""The end of a graph that chooses: class maps, the best few, what non-maximum suppression leaves.

No number in it can be quantized and no error behind it has a size. So the network is converted and judged up to the
values that this *tail* reads, and what is written has the tail behind it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import onnx
from onnx import NodeProto, TensorProto, helper

from converter.errors import UnsupportedOperatorError
from converter.graph.twin.learnable import learnable_names
from converter.graph.twin.table import nodes_of
from engines.onnx_passes.file import graphs, reads
from zscgan_common.text import cut

_SIZED_BY_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
_SIZED_IN_THE_TWIN = {"Compress", "NonZero"}
"""Those that the twin has, for shapes; it refuses the others by itself."""
_CHOOSING = _SIZED_BY_VALUES | {"ArgMax", "ArgMin", "TopK"}
_DECIDING = {"Cast", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
"""They choose where no floating point number comes of it."""
_KNOWN_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_SHAPES = {"Shape", "Size"}
_MOVING = {"Cast", "Identity", "Squeeze", "Transpose", "Unsqueeze"}
_SELECTING = {"Gather", "Slice", "Split"}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UNDEFINED}
_RANKS_OF_WEIGHTS = (2, 4)


@dataclass(frozen=True)
class Tail:
    """The nodes behind ``cut``, values of the head, and what they read besides.

    ``outputs`` are those of the whole network, of which the head may give some; ``chosen_by`` are the operators that
    begin the tail. ``opsets`` and ``ir_version`` are the whole's.
    """

    nodes: tuple[NodeProto, ...]
    initializers: tuple[TensorProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    head_outputs: tuple[str, ...]
    cut: tuple[str, ...]
    chosen_by: tuple[str, ...]
    opsets: Mapping[str, int]
    ir_version: int

    def describe(self) -> str:
        """The line for the user."""
        chosen = ", ".join(self.chosen_by)
        return (
            f"the graph's end behind {cut(self.cut, 5)} ({chosen}) stays as it is; all before it is converted"
        )

    @property
    def among_classes(self) -> str | None:
        """The value in which the tail finds the best class or classes; None where it does something else."""
        classed = len(self.cut) == 1 and {"ArgMax", "TopK"}.issuperset(self.chosen_by)
        return self.cut[0] if classed else None

    @cached_property
    def foreign(self) -> bool:
        """Whether it has operators that ONNX Runtime lacks, such as a plugin of TensorRT."""
        return any(node.domain not in _KNOWN_DOMAINS for node in self.nodes)

    @cached_property
    def sized_by_values(self) -> bool:
        """Whether the size of an output depends on the values of the image."""
        return any(node.op_type in _SIZED_BY_VALUES for node in self.nodes)

    def attached_to(self, head: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of ``head`` with the tail behind it and the outputs of the whole; values keep their names.

        Only what the tail has for itself gets another name where the head has it too.
        """
        whole = onnx.ModelProto()
        whole.CopyFrom(head)
        graph = whole.graph
        given = {value.name: value for value in graph.output}
        declared = {value.name: value for value in self.outputs}
        names = self._names(_value_names(graph), given.keys() | declared.keys())
        nodes = self._nodes(names, {node.name for node in graph.node})
        graph.node.extend(nodes)
        for tensor in self.initializers:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = names.get(tensor.name, tensor.name)
        del graph.output[:]
        graph.output.extend(given.get(name, value) for name, value in declared.items())
        graph.value_info.extend(value for name, value in given.items() if name not in declared)
        known = {item.domain for item in whole.opset_import}
        for domain, version in self.opsets.items():
            if domain not in known:
                whole.opset_import.append(helper.make_opsetid(domain, version))
        whole.ir_version = max(whole.ir_version, self.ir_version)
        return whole

    def taken_off(self, whole: onnx.ModelProto) -> onnx.ModelProto:
        """The head of ``whole``, a model that the tail was attached to."""
        return up_to(whole, self.head_outputs)

    def declared_as(self, outputs: Iterable[onnx.ValueInfoProto]) -> "Tail":
        """With these declarations of the whole's outputs."""
        return replace(self, outputs=tuple(outputs))

    def _names(self, taken: set[str], fixed: Iterable[str]) -> dict[str, str]:
        """New names for those of the tail's own values that are ``taken``."""
        own = {name for node in self.nodes for name in _made(node)} | {t.name for t in self.initializers}
        used, names = taken | own, dict[str, str]()
        for name in sorted((own & taken) - set(fixed) - {""}):
            names[name] = _free(f"{name}_tail", used)
            used.add(names[name])
        return names

    def _nodes(self, names: Mapping[str, str], taken: set[str]) -> list[NodeProto]:
        nodes = []
        for original in self.nodes:
            nodes.append(NodeProto())
            nodes[-1].CopyFrom(original)
            _rename(nodes[-1], names)
            if original.name in taken and original.name:
                nodes[-1].name = _free(f"{original.name}_tail", taken)
            taken.add(nodes[-1].name)
        return nodes


def split_tail(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Tail | None]:
    """``model``, whose constants are folded, up to the end that chooses, and that end; None where it has none.

    What chooses before a layer with weights is no end: it stays, as far as every image has as much of it. Raises
    UnsupportedOperatorError for what gives more of one image than of another there.
    """
    graph = _Graph(model)
    starts = graph.starts()
    tail = graph.behind(starts)
    graph.refuse_outside(tail)
    values = graph.cut(tail)
    if not starts or not values:
        return model, None
    made = {name for index in tail for name in graph.nodes[index].output}
    kept = [value.name for value in model.graph.output if value.name not in made]
    head_outputs = tuple(dict.fromkeys([*kept, *values]))
    own = sorted(tail | graph.constant_for(tail))
    read = {name for index in own for name in reads(graph.nodes[index])} | {
        v.name for v in model.graph.output
    }
    opsets = {item.domain: item.version for item in model.opset_import}
    whole = Tail(
        tuple(graph.nodes[index] for index in own),
        tuple(tensor for tensor in model.graph.initializer if tensor.name in read),
        tuple(model.graph.output),
        head_outputs,
        tuple(values),
        tuple(dict.fromkeys(graph.nodes[index].op_type for index in starts)),
        opsets,
        model.ir_version,
    )
    head = up_to(model, head_outputs)
    domains = {"", "ai.onnx", *(node.domain for node in head.graph.node)}
    for item in [item for item in head.opset_import if item.domain not in domains]:
        head.opset_import.remove(item)
    return head, whole


class _Graph:
    """Which nodes read what, and what depends on the image."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.outputs = {value.name: value for value in model.graph.output}
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = {value.name for value in model.graph.input} - self.tensors.keys()
        self.types = _types(model)
        self.learnable = _learnable(model)
        self.readers = dict[str, list[int]]()
        self.dependent = set(self.inputs)
        for index, node in enumerate(self.nodes):
            names = set(reads(node))
            for name in names:
                self.readers.setdefault(name, []).append(index)
            if node.op_type not in _SHAPES and names & self.dependent:
                self.dependent.update(node.output)

    def starts(self) -> list[int]:
        """The nodes that choose and have no weights behind them."""
        weighted, floats, found = set[int](), set[int](), []
        for index in reversed(range(len(self.nodes))):
            node = self.nodes[index]
            readers = {reader for name in node.output for reader in self.readers.get(name, ())}
            if self._has_weights(node) or readers & weighted:
                weighted.add(index)
            if readers & floats or any(name in self.outputs and self._is_float(name) for name in node.output):
                floats.add(index)
            if index not in weighted and self._chooses(node, to_float=index in floats):
                found.append(index)
        return found[::-1]

    def behind(self, starts: Iterable[int]) -> set[int]:
        """``starts`` and all that reads what they give."""
        found = set(starts)
        for index in range(min(found, default=len(self.nodes)), len(self.nodes)):
            if any(self.producer.get(name) in found for name in reads(self.nodes[index])):
                found.add(index)
        return found

    def refuse_outside(self, tail: set[int]) -> None:
        """Raise UnsupportedOperatorError for a value, used before ``tail``, whose size depends on the image."""
        for index, node in enumerate(self.nodes):
            if (
                node.op_type in _SIZED_IN_THE_TWIN
                and index not in tail
                and self.dependent.intersection(reads(node))
            ):
                raise UnsupportedOperatorError(
                    f"expected a network whose layers see as much of every image, but {node.op_type} at node "
                    f"{node.name or node.output[0]} gives as much as it finds, and layers with weights follow; cut the "
                    "model before it with onnx.utils.extract_model"
                )

    def cut(self, tail: set[int]) -> list[str]:
        """The values that ``tail``, which grows by what only leads to it, reads of the head, in the graph's order."""
        while True:
            own = tail | self.constant_for(tail)
            read = {name for index in own for name in reads(self.nodes[index])} & self.dependent
            found = {name for name in read - self.inputs if self.producer[name] not in tail}
            leading = {self.producer[name] for name in found if self._leads_to(name, tail)}
            if not leading:
                parts = [self.producer[name] for name in found if name not in self.outputs]
                sources = {next(iter(self.nodes[index].input), "") for index in parts}
                if (
                    len(parts) > 1
                    and len(sources) == 1
                    and all(self._selects(index, tail) for index in parts)
                ):
                    leading = set(parts)
            if not leading:
                return [name for node in self.nodes for name in node.output if name in found]
            tail |= leading

    def constant_for(self, tail: set[int]) -> set[int]:
        """The nodes that make what ``tail`` reads and what no image changes: shapes and what is computed of them."""
        found, open_nodes = set[int](), list(tail)
        while open_nodes:
            for name in reads(self.nodes[open_nodes.pop()]):
                index = self.producer.get(name)
                if index is not None and name not in self.dependent and index not in found | tail:
                    found.add(index)
                    open_nodes.append(index)
        return found

    def _is_float(self, name: str) -> bool:
        return self.types.get(name, TensorProto.UNDEFINED) in _FLOATS

    def _has_weights(self, node: NodeProto) -> bool:
        if node.domain in _KNOWN_DOMAINS:
            return any(name in self.learnable and name not in self.dependent for name in node.input)
        ranks = [len(self.tensors[name].dims) for name in node.input if name in self.tensors]
        return any(rank in _RANKS_OF_WEIGHTS for rank in ranks)

    def _chooses(self, node: NodeProto, *, to_float: bool) -> bool:
        if not self.dependent.intersection(reads(node)):
            return False
        if node.domain not in _KNOWN_DOMAINS or node.op_type in _CHOOSING:
            return True
        decides = any(self._is_float(name) for name in node.input) and not self._is_float(node.output[0])
        return node.op_type in _DECIDING and decides and not to_float

    def _leads_to(self, name: str, tail: set[int]) -> bool:
        """Whether what makes ``name`` belongs to ``tail``: it gives no floats, or changes the layout for it alone."""
        node = self.nodes[self.producer[name]]
        if not self._is_float(name):
            return not self._has_weights(node)
        return node.op_type in _MOVING and self._is_only_for(node, tail) and node.input[0] not in self.inputs

    def _selects(self, index: int, tail: set[int]) -> bool:
        node = self.nodes[index]
        selects = node.op_type in _SELECTING and node.input[0] in self.dependent - self.inputs
        return selects and self._is_only_for(node, tail)

    def _is_only_for(self, node: NodeProto, tail: set[int]) -> bool:
        readers = {reader for name in node.output for reader in self.readers.get(name, ())}
        return readers <= tail and not any(name in self.outputs for name in node.output)


def up_to(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    """The part of ``model`` that computes ``outputs``."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    del graph.node[:], graph.output[:]
    needed, nodes = set(outputs), list[NodeProto]()
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(reads(node))
            nodes.append(node)
    graph.node.extend(reversed(nodes))
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    if not known.keys() >= set(outputs):
        known |= {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    missing = helper.make_tensor_value_info
    graph.output.extend(known.get(name, missing(name, TensorProto.FLOAT, None)) for name in outputs)
    for tensors in (graph.initializer, graph.value_info):
        kept = [item for item in tensors if item.name in needed and item.name not in outputs]
        del tensors[:]
        tensors.extend(kept)  # type: ignore[arg-type]
    return part


def _learnable(model: onnx.ModelProto) -> frozenset[str]:
    """Names of what stands where layers have weights."""
    known = onnx.GraphProto()
    known.node.extend(node for node in model.graph.node if node.domain in _KNOWN_DOMAINS)
    return learnable_names(list(nodes_of(known, {})))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _made(node: NodeProto) -> list[str]:
    """Names of all that ``node`` makes, in its bodies too."""
    bodies = [body for item in node.attribute for body in ([item.g] if item.HasField("g") else item.graphs)]
    inner = [name for body in bodies for part in graphs(body) for name in _value_names(part)]
    return [*node.output, *inner]


def _value_names(graph: onnx.GraphProto) -> set[str]:
    made = {name for node in graph.node for name in node.output}
    return made | {item.name for item in (*graph.input, *graph.initializer)}


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Give the values of ``names`` their new ones, in the bodies of ``node`` too."""
    for values in (node.input, node.output):
        for position, name in enumerate(values):
            values[position] = names.get(name, name)
    bodies = [body for item in node.attribute for body in ([item.g] if item.HasField("g") else item.graphs)]
    for body in bodies:
        for item in (*body.input, *body.output, *body.initializer, *body.value_info):
            item.name = names.get(item.name, item.name)
        for inner in body.node:
            _rename(inner, names)


def _free(name: str, taken: Iterable[str]) -> str:
    """``name``, or ``name`` with a number where that is taken."""
    used, number = set(taken), 0
    while (candidate := f"{name}_{number}" if number else name) in used:
        number += 1
    return candidate
