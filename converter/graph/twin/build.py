"""A PyTorch twin of an ONNX graph, node by node."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from converter.errors import UnsupportedOperatorError
from converter.graph.twin.elementwise import identity
from converter.graph.twin.learnable import learnable_names
from converter.graph.twin.names import OUTPUTS, TARGETS, VALUE, Places, value_name
from converter.graph.twin.normalisation import TwinBatchNorm
from converter.graph.twin.table import (
    HOST_OPERATORS,
    TENSOR_OPERATORS,
    Argument,
    Kind,
    Node,
    Operator,
    arguments_of,
    keywords_of,
    nodes_of,
    refusal,
    tensor_from_proto,
)
from converter.graph.twin.values import host_constant, tensor_like

_CONSTANTS = {"value", "value_float", "value_floats", "value_int", "value_ints"}
OLDEST_OPSET = 7  # where broadcasting became NumPy's


def twin_from_onnx(model: onnx.ModelProto) -> fx.GraphModule:
    """``model`` in PyTorch: takes its inputs in order, gives its output, or a tuple where it has several.

    There is one FX node for each ONNX node whose result is not known beforehand; ``twin.names`` finds it
    by ONNX's name of its first output, and finds a parameter by that of its initializer. Weights and what else layers
    learn are parameters. All other constants that are read as tensors are buffers; what decides shapes is an argument.
    Raises UnsupportedOperatorError that lists every operator which a twin doesn't have.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opsets = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in model.opset_import}
    nodes = list(nodes_of(model.graph, opsets))
    _check(nodes, opsets)
    builder = _Builder(opsets, learnable_names(nodes))
    builder.add_initializers(model.graph)
    builder.add_inputs(model.graph)
    for node in nodes:
        builder.add(node)
    return builder.module([value.name for value in model.graph.output])


def _check(nodes: Iterable[Node], opsets: dict[str, int]) -> None:
    """Raise UnsupportedOperatorError unless the table has every node."""
    if opsets.get("", OLDEST_OPSET) < OLDEST_OPSET:
        raise UnsupportedOperatorError(
            f"expected a model of opset {OLDEST_OPSET} or newer, got opset {opsets['']}; raise it with "
            "onnx.version_converter.convert_version, or export the network again"
        )
    found: dict[str, str] = {}
    for node in nodes:
        if (reason := _refusal(node)) is not None:
            found.setdefault(f"{node.label} (opset {node.opset}){reason}", node.name)
    if found:
        raise UnsupportedOperatorError(_message(found))


def _message(found: dict[str, str]) -> str:
    operators = ", ".join(f"{operator} at node {name}" for operator, name in found.items())
    return (
        f"expected operators that can be run in PyTorch, got {operators}; export the network without them, "
        "or cut the model before them with onnx.utils.extract_model"
    )


def _refusal(node: Node) -> str | None:
    """What the table lacks of ``node``: empty for the whole operator."""
    if node.op == "Constant":
        return None if node.attributes.keys() <= _CONSTANTS else f" with attribute {min(node.attributes)}"
    if node.op == "If":
        return None
    entries = [table[node.op] for table in (TENSOR_OPERATORS, HOST_OPERATORS) if node.op in table]
    reasons = [refusal(node, entry) for entry in entries]
    if not reasons:
        return ""
    return None if None in reasons else f" with {reasons[0]}"


class _Graph(fx.Graph):
    """A graph none of whose nodes is called ``self``, which the code of its module needs."""

    def create_node(self, op: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if kwargs.get("name") == "self":
            kwargs["name"] = "self_"
        return super().create_node(op, target, *args, **kwargs)


class _Builder:
    """An FX graph that grows by one ONNX node at a time.

    ``statics`` are the values that are known now, on the CPU; ``nodes`` makes the others. Of these, ``hosts`` are
    arrays on the host.
    """

    def __init__(self, opsets: dict[str, int], learnable: frozenset[str]) -> None:
        self.opsets, self.learnable = opsets, learnable
        self.graph, self.root = _Graph(), nn.Module()
        self.places, self.targets = Places(self.root), dict[str, str]()
        self.statics: dict[str, Tensor] = {}
        self.nodes: dict[str, fx.Node] = {}
        self.hosts: set[str] = set()
        self.inputs: list[fx.Node] = []
        self.parameters: dict[str, nn.Parameter] = {}
        self.copies: dict[str, fx.Node] = {}
        self.constants: dict[str, fx.Node] = {}

    def add_initializers(self, graph: onnx.GraphProto) -> None:
        """Take the initializers of ``graph``."""
        self.statics.update({proto.name: tensor_from_proto(proto) for proto in graph.initializer})

    def add_inputs(self, graph: onnx.GraphProto) -> None:
        """Take the inputs of ``graph`` that are not initializers."""
        for value in graph.input:
            if value.name not in self.statics:
                node = self.graph.create_node("placeholder", value.name, name=value.name)
                node.target = node.name  # an identifier, which the code of the module needs
                self.inputs.append(self._named(node, value.name))

    def add(self, node: Node) -> None:
        """Take one node, whose inputs are known."""
        if node.op == "Constant":
            self.statics[node.outputs[0]] = _constant(node)
        elif node.op == "If":
            self._add_branch(node)
        elif self._is_static(node):
            self._fold(node)
        elif self._is_on_host(node):
            self._add_call(node, HOST_OPERATORS[node.op], on_host=True)
        elif not (node.op == "BatchNormalization" and self._add_batch_norm(node)):
            self._add_call(node, TENSOR_OPERATORS[node.op], on_host=False)

    def module(self, outputs: Sequence[str]) -> fx.GraphModule:
        """What has been built, giving ``outputs``."""
        results = [self._tensor(name) for name in outputs]
        output = self.graph.output(results[0] if len(results) == 1 else tuple(results))
        output.meta[OUTPUTS] = tuple(outputs)
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph, "Twin")
        module.meta[TARGETS] = self.targets
        return module.eval()

    def _named(self, node: fx.Node, name: str, *, on_host: bool = False) -> fx.Node:
        node.meta[VALUE] = name
        self.nodes[name] = node
        if on_host:
            self.hosts.add(name)
        return node

    def _add_branch(self, node: Node) -> None:
        condition = self.statics.get(node.inputs[0])
        if condition is None:
            raise UnsupportedOperatorError(
                _message(
                    {
                        f"{node.label} (opset {node.opset}) with a condition that depends on the input": node.name
                    }
                )
            )
        branch = node.attributes["then_branch" if condition.item() else "else_branch"]
        nodes = list(nodes_of(branch, self.opsets))
        _check(nodes, self.opsets)
        self.add_initializers(branch)
        for inner in nodes:
            self.add(inner)
        for result, name in zip(branch.output, node.outputs, strict=True):
            self.add(Node("Identity", "", node.opset, name, (result.name,), (name,), {}))

    def _is_static(self, node: Node) -> bool:
        """Whether its results are known now: a shape always, a value unless something learns it."""
        shape = node.op in ("Shape", "Size")
        return all(
            not name or (name in self.statics and (shape or name not in self.learnable))
            for name in node.inputs
        )

    def _is_on_host(self, node: Node) -> bool:
        """Whether it computes with shapes alone; filling a float tensor is left to the device."""
        entry = HOST_OPERATORS.get(node.op)
        if entry is None or refusal(node, entry) is not None:
            return False
        if node.op in ("Shape", "Size"):
            return True
        known = self.hosts | self.statics.keys()
        filled = node.op == "ConstantOfShape" and isinstance(node.attributes.get("value", (0.0, 1))[0], float)
        fits = all(not name or (name in known and name not in self.learnable) for name in node.inputs)
        return fits and not filled and self._has_numpy_types(node)

    def _fold(self, node: Node) -> None:
        entry = HOST_OPERATORS.get(node.op)
        if entry is None or refusal(node, entry) is not None or not self._has_numpy_types(node):
            entry = TENSOR_OPERATORS[node.op]
        args = [
            _static_value(self.statics[argument.name], argument.kind) if argument.name else argument.attribute
            for argument in arguments_of(node, entry)
        ]
        like = {"like": torch.empty(0)} if "like" in entry.keywords else {}
        with torch.no_grad():
            result = entry.function(*args, **keywords_of(node, entry), **like)
        parts = result if isinstance(result, tuple) else (result,)
        for name, part in zip(node.outputs, parts, strict=False):
            self.statics[name] = part if isinstance(part, Tensor) else torch.tensor(np.asarray(part))

    def _has_numpy_types(self, node: Node) -> bool:
        known = [self.statics[name] for name in node.inputs if name in self.statics]
        return all(value.dtype != torch.bfloat16 for value in known)

    def _add_call(self, node: Node, entry: Operator, *, on_host: bool) -> None:
        args = tuple(self._argument(argument) for argument in arguments_of(node, entry))
        keywords = keywords_of(node, entry)
        if "like" in entry.keywords:
            keywords["like"] = self.inputs[0]
        first = node.outputs[0]
        if not entry.returns_parts and len(node.outputs) == 1:
            call = self.graph.create_node("call_function", entry.function, args, keywords, name=first)
            self._named(call, first, on_host=on_host)
            return
        call = self.graph.create_node("call_function", entry.function, args, keywords, name=f"{first}_parts")
        for position, name in enumerate(node.outputs):
            if name:
                part = self.graph.create_node("call_function", operator.getitem, (call, position), name=name)
                self._named(part, name, on_host=on_host)

    def _argument(self, argument: Argument) -> Any:
        if not argument.name:
            return argument.attribute
        if argument.name not in self.statics:
            tensor = argument.kind == Kind.TENSOR
            return self._tensor(argument.name) if tensor else self.nodes[argument.name]
        value = _static_value(self.statics[argument.name], argument.kind)
        if isinstance(value, Tensor):
            return self._tensor(argument.name)
        return self._constant_on_host(argument.name, value) if isinstance(value, np.ndarray) else value

    def _tensor(self, name: str) -> fx.Node:
        """The node that gives ``name`` on the device."""
        if name not in self.nodes:
            self._read(name)
        if name in self.hosts and name not in self.copies:
            like = self.inputs[0] if self.inputs else None
            self.copies[name] = self.graph.call_function(tensor_like, (self.nodes[name], like))
        return self.copies[name] if name in self.hosts else self.nodes[name]

    def _read(self, name: str) -> None:
        if name not in self.targets:
            target = self.targets[name] = self.places.tensor(name)
            path, _, last = target.rpartition(".")
            owner = self.root.get_submodule(path)
            if self._is_parameter(name):
                owner.register_parameter(last, self._parameter(name))
            else:
                owner.register_buffer(last, _copy(self.statics[name]))
        self._named(self.graph.create_node("get_attr", self.targets[name], name=name), name)

    def _is_parameter(self, name: str) -> bool:
        return name in self.learnable and self.statics[name].is_floating_point()

    def _parameter(self, name: str) -> nn.Parameter:
        if name not in self.parameters:
            self.parameters[name] = nn.Parameter(_copy(self.statics[name]))
        return self.parameters[name]

    def _constant_on_host(self, name: str, value: NDArray[Any]) -> fx.Node:
        if name not in self.constants:
            args = (value.tolist(), str(value.dtype))
            self.constants[name] = self.graph.call_function(host_constant, args)
        return self.constants[name]

    def _add_batch_norm(self, node: Node) -> bool:
        """As a module, whose input the statistics of a batch are taken at; False if something is computed."""
        names = [self._source(name) for name in node.inputs[1:]]
        if not all(name in self.statics for name in names):
            return False
        prefix = names[0].rpartition(".")[0]
        fields = ("weight", "bias", "running_mean", "running_var")
        usual = prefix and names == [f"{prefix}.{field}" for field in fields]
        path = self.places.module(prefix if usual else node.outputs[0], fields)
        scale, bias = (self._parameter(name) for name in names[:2])
        mean, variance = (_copy(self.statics[name]) for name in names[2:])
        norm = TwinBatchNorm(scale, bias, mean, variance, node.attributes.get("epsilon", 1e-5))
        owner = self.root.get_submodule(path.rpartition(".")[0])
        owner.add_module(path.rpartition(".")[2], norm)
        for name, field in zip(names, fields, strict=True):
            self.targets.setdefault(name, f"{path}.{field}")
        x = self._tensor(node.inputs[0])
        call = self.graph.create_node("call_module", path, (x,), name=node.outputs[0])
        self._named(call, node.outputs[0])
        return True

    def _source(self, name: str) -> str:
        """Where ``name`` comes from, past nodes that hand it on: exporters write these for equal initializers."""
        while name in self.nodes and self.nodes[name].target is identity:
            name = value_name(self.nodes[name].all_input_nodes[0])
        return name


def _constant(node: Node) -> Tensor:
    ((_, value),) = node.attributes.items()
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _copy(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)


def _static_value(value: Tensor, kind: Kind) -> Any:
    """``value`` as plain numbers or an array, if ``kind`` is that, else as it is."""
    if kind == Kind.STATIC:
        return value.item() if value.ndim == 0 else tuple(value.flatten().tolist())
    if kind == Kind.HOST:
        return value.numpy()
    is_number = (kind == Kind.INDEX and value.ndim == 0) or (
        kind == Kind.NUMBER and value.ndim <= 1 and value.numel() == 1
    )
    return value.item() if is_number else value
