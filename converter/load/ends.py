"""What computes the outputs of a network, but for what changes the shape or the type of a value alone."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from converter.graph.outputs import named_tensors, tensors_of

_RESHAPING_OPERATORS = {
    "Cast",
    "Flatten",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "Dropout",
}
_RESHAPING_FUNCTIONS = {
    *(
        "__get__",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "flatten",
        "float",
        "movedim",
        "permute",
        "reshape",
    ),
    *("squeeze", "swapaxes", "t", "to", "transpose", "type", "unflatten", "unsqueeze", "view"),
}
"""Of PyTorch; ``__get__`` is that of ``x.T``."""
_ORDERING = {"topk", "sort", "argsort", "argmax", "argmin", "nms", "batched_nms"}


def ends_of_onnx(model: ModelProto) -> dict[str, str]:
    """Output -> the operator that computes it."""
    nodes = {name: node for node in model.graph.node for name in node.output}
    ends = {}
    for value in model.graph.output:
        node = nodes.get(value.name)
        while node is not None and node.op_type in _RESHAPING_OPERATORS:
            node = nodes.get(node.input[0])
        if node is not None:
            ends[value.name] = node.op_type
    return ends


def ends_of_module(network: nn.Module, x: Tensor) -> dict[str, str]:
    """Output -> the function of PyTorch that computes it, whether a module or the network's own forward calls it."""
    with torch.no_grad(), _Calls() as calls:
        outputs = named_tensors(network(x))
    return {name: end for name, output in outputs.items() if (end := calls.end_of(output))}


def orders(network: nn.Module, x: Tensor) -> bool:
    """Whether ``network`` calls a function that takes the best of several values, whose order INT8 may change."""
    with torch.no_grad(), _Calls() as calls:
        network(x)
    return not calls.names.isdisjoint(_ORDERING)


class _Calls(TorchFunctionMode):
    """Notes what made each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._ends: dict[int, str] = {}
        self._kept: list[Tensor] = []
        """As the number of a tensor that is gone goes to another."""

    def end_of(self, value: Tensor) -> str:
        """The function that made ``value``; empty where none did."""
        return self._ends.get(id(value), "")

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.strip("_") if func.__name__ != "__get__" else func.__name__
        self.names.add(name)
        source = args[0] if args and isinstance(args[0], Tensor) else None
        if name in _RESHAPING_FUNCTIONS and source is not None:
            name = self.end_of(source)
        for value in _made(source if name == "setitem" else result):
            self._ends[id(value)] = name
            self._kept.append(value)
        return result


def _made(result: object) -> tuple[Tensor, ...]:
    """The tensors in what a function of PyTorch gave, which may be anything."""
    try:
        return tensors_of(result)
    except TypeError:
        return ()
