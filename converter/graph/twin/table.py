"""The table of operators: for each ONNX operator one function, whose signature says how a node is bound to it.

Its positional parameters are the node's inputs in ONNX's order. Where an input is absent, the attribute of the same
name takes its place, which is how older opsets give axes, pads and bounds. Keyword parameters are attributes, except
``opset`` (the version that the model imports), ``outputs`` (how many the node has) and ``like`` (a tensor on the
device). A ``Literal`` lists the values that an attribute may have; a node with another one, or with an attribute that
the function doesn't know, is refused.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from typing import Any, Literal, TypeVar

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from converter.errors import CaptureError
from converter.graph.twin.values import Anything, Host, Index, Number

Function = TypeVar("Function", bound=Callable[..., Any])

# Of no consequence: notes of old exporters, what matters in training alone, and what goes with refused values.
_IGNORED = {
    "consumed_inputs",
    "extrapolation_value",
    "is_test",
    "momentum",
    "qk_matmul_output_mode",
    "saturate",
    "seed",
    "softmax_precision",
    "sorted",
    "stash_type",
}


class Kind(Enum):
    """What a positional parameter takes; see ``converter.graph.twin.values``."""

    TENSOR = auto()
    STATIC = auto()
    NUMBER = auto()
    INDEX = auto()
    HOST = auto()
    ANYTHING = auto()


def _kind(annotation: Any) -> Kind:
    options = set(typing.get_args(annotation) or (annotation,)) - {types.NoneType}
    if options == {Tensor}:
        return Kind.TENSOR
    known = {Number: Kind.NUMBER, Index: Kind.INDEX, Host: Kind.HOST, Anything: Kind.ANYTHING}
    return next(
        (kind for alias, kind in known.items() if options == set(typing.get_args(alias))), Kind.STATIC
    )


@dataclass(frozen=True)
class Operator:
    """A function and the signature by which nodes are bound to it."""

    function: Callable[..., Any]
    template: Callable[..., Any]
    only: Mapping[str, Any] = field(default_factory=dict)
    """Attributes that the function doesn't have, and the value at which it does without them."""

    @cached_property
    def signature(self) -> inspect.Signature:
        """How nodes are bound."""
        return inspect.signature(self.template)

    @cached_property
    def inputs(self) -> dict[str, Kind]:
        """Positional parameters."""
        parameters = self.signature.parameters.values()
        return {p.name: _kind(p.annotation) for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD}

    @cached_property
    def rest(self) -> Kind | None:
        """What any number of further inputs are."""
        parameters = self.signature.parameters.values()
        return next((_kind(p.annotation) for p in parameters if p.kind == p.VAR_POSITIONAL), None)

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """Keyword parameters and their annotations."""
        parameters = self.signature.parameters.values()
        return {p.name: p.annotation for p in parameters if p.kind == p.KEYWORD_ONLY}

    @cached_property
    def returns_parts(self) -> bool:
        """Whether there are always several results, in a tuple."""
        return typing.get_origin(self.signature.return_annotation) is tuple


TENSOR_OPERATORS: dict[str, Operator] = {}
"""Operators on tensors, by ONNX's name."""
HOST_OPERATORS: dict[str, Operator] = {}
"""Operators on shapes and what is computed from them."""


def operator(*names: str, **only: Any) -> Callable[[Function], Function]:
    """Enter a function on tensors under ``names``; ``only`` is that of the operator."""

    def enter(function: Function) -> Function:
        TENSOR_OPERATORS.update(dict.fromkeys(names, Operator(function, function, only)))
        return function

    return enter


def host_operator(*names: str) -> Callable[[Function], Function]:
    """Enter a function on arrays under ``names``."""

    def enter(function: Function) -> Function:
        HOST_OPERATORS.update(dict.fromkeys(names, Operator(function, function)))
        return function

    return enter


def enter_all(
    table: dict[str, Operator], functions: Mapping[str, Callable[..., Any]], template: Callable[..., Any]
) -> None:
    """Enter library functions, all bound by the signature of ``template``."""
    table.update({name: Operator(function, template) for name, function in functions.items()})


@dataclass(frozen=True)
class Node:
    """An ONNX node with its attributes as plain values; a tensor of one element is (number, its type).

    ``op`` begins with the domain, if that isn't ONNX's own.
    """

    op: str
    domain: str
    opset: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The operator with its domain."""
        return self.op if self.domain else f"ai.onnx.{self.op}"


def nodes_of(graph: onnx.GraphProto, opsets: Mapping[str, int]) -> Iterator[Node]:
    """The nodes of ``graph`` in its order."""
    for proto in graph.node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        outputs = list(proto.output)
        while len(outputs) > 1 and not outputs[-1]:
            outputs.pop()
        yield Node(
            f"{domain}.{proto.op_type}" if domain else proto.op_type,
            domain,
            opsets.get(domain, 0),
            proto.name or proto.output[0],
            tuple(proto.input),
            tuple(outputs),
            {attribute.name: _attribute(proto.op_type, attribute) for attribute in proto.attribute},
        )


def _attribute(op: str, attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        tensor = tensor_from_proto(value)
        return tensor if op == "Constant" else (tensor.item(), value.data_type)
    if isinstance(value, onnx.GraphProto | onnx.SparseTensorProto | str | int | float):
        return value
    return tuple(item.decode() if isinstance(item, bytes) else item for item in value)


def tensor_from_proto(proto: onnx.TensorProto) -> Tensor:
    """A copy of ``proto`` on the CPU. Raises CaptureError for a type that PyTorch doesn't have."""
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        return torch.tensor(numpy_helper.to_array(proto).view("int16")).view(torch.bfloat16)
    try:
        return torch.tensor(numpy_helper.to_array(proto))
    except TypeError as error:
        kind = onnx.TensorProto.DataType.Name(proto.data_type)
        raise CaptureError(
            f"expected constants of a type that PyTorch has, got {kind} in {proto.name or 'a Constant'}; "
            "export the network in float32"
        ) from error


def refusal(node: Node, entry: Operator) -> str | None:
    """Why ``node`` can't be bound to ``entry``; None if it can."""
    unknown = (
        node.attributes.keys() - entry.keywords.keys() - entry.inputs.keys() - entry.only.keys() - _IGNORED
    )
    if unknown:
        return f"attribute {sorted(unknown)[0]}"
    for name, value in node.attributes.items():
        annotation = entry.keywords.get(name)
        if typing.get_origin(annotation) is Literal and value not in typing.get_args(annotation):
            return f"{name}={value}"
        if entry.only.get(name, value) != value:
            return f"{name}={value}"
    if len(node.inputs) > len(entry.inputs) and entry.rest is None and any(node.inputs[len(entry.inputs) :]):
        return f"input {len(entry.inputs) + 1}"
    number = entry.keywords.get("outputs", Literal[1])
    counted = typing.get_origin(number) is Literal and not entry.returns_parts
    if counted and len(node.outputs) not in typing.get_args(number):
        return f"{len(node.outputs)} outputs"
    return None


@dataclass(frozen=True)
class Argument:
    """What a positional parameter gets: the value of that name, else an attribute in its place, else nothing."""

    kind: Kind
    name: str
    attribute: Any = None


def arguments_of(node: Node, entry: Operator) -> list[Argument]:
    """The positional arguments of the function of ``entry`` for ``node``."""
    arguments = []
    for position, (parameter, kind) in enumerate(entry.inputs.items()):
        name = node.inputs[position] if position < len(node.inputs) else ""
        arguments.append(Argument(kind, name, node.attributes.get(parameter)))
    if entry.rest is not None:
        arguments += [Argument(entry.rest, name) for name in node.inputs[len(entry.inputs) :]]
    while arguments and not arguments[-1].name and arguments[-1].attribute is None:
        arguments.pop()
    return arguments


def keywords_of(node: Node, entry: Operator) -> dict[str, Any]:
    """The keyword arguments, but for ``like``; defaults are left to the function."""
    known = {**node.attributes, "opset": node.opset, "outputs": len(node.outputs)}
    if len(node.outputs) == 1:
        del known["outputs"]
    return {name: known[name] for name in entry.keywords if name in known}
