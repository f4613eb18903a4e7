"""ONNX's names in a twin: of values, on FX nodes; of initializers, on parameters and buffers.

A value's name is kept beside the FX node, whose own name has to be an identifier. An initializer called
``layer1.0.conv1.weight`` is the parameter of this name; one that can't be, because a part of its name is empty, holds
other characters than letters, digits and ``_``, or is already something else, gets a name of its own.
"""

import functools
import keyword
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

VALUE, OUTPUTS, TARGETS = "onnx", "onnx_outputs", "onnx_targets"
"""Keys of the ``meta`` of a node, of the output node, and of the module."""


def value_name(node: fx.Node) -> str:
    """ONNX's name of the value that ``node`` makes; empty for a node that is not in the ONNX graph."""
    name: str = node.meta.get(VALUE, "")
    return name


def nodes_by_value(module: fx.GraphModule) -> dict[str, fx.Node]:
    """ONNX value name -> node, in the graph's order: inputs, initializers that are read as tensors, results."""
    return {name: node for node in module.graph.nodes if (name := value_name(node))}


def output_names(module: fx.GraphModule) -> tuple[str, ...]:
    """ONNX's names of what ``module`` returns, in this order."""
    (output,) = module.graph.find_nodes(op="output")
    names: tuple[str, ...] = output.meta[OUTPUTS]
    return names


def parameter_of(module: fx.GraphModule, onnx_name: str) -> Tensor:
    """The parameter or buffer that an initializer became. Raises KeyError where no node reads it as a tensor."""
    *path, last = targets(module)[onnx_name].split(".")
    owner: Any = module
    for part in path:
        owner = getattr(owner, part)
    value = getattr(owner, last)
    assert isinstance(value, Tensor)
    return value


def onnx_name_of(module: fx.GraphModule, target: str) -> str:
    """The initializer that is the parameter or buffer ``target``. Raises KeyError for any other."""
    return {place: name for name, place in targets(module).items()}[target]


def targets(module: fx.GraphModule) -> dict[str, str]:
    """Initializer -> name of its parameter or buffer."""
    places: dict[str, str] = module.meta[TARGETS]
    return places


@functools.cache
def _taken() -> frozenset[str]:
    """What every graph module has already."""
    return frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))


class Places:
    """Free names for tensors and modules below ``root``."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._tensors: set[str] = set()
        self._modules: set[str] = {""}

    def tensor(self, name: str) -> str:
        """Where the tensor of this ONNX name goes; the modules above it are there."""
        target = self._free(name)
        self._tensors.add(target)
        self._add_modules(target.rpartition(".")[0])
        return target

    def module(self, name: str, fields: Sequence[str]) -> str:
        """Where a module that is to be called ``name`` goes, whose tensors are ``fields``."""
        target = self._free(name)
        self._add_modules(target.rpartition(".")[0])
        self._modules.add(target)
        self._tensors.update(f"{target}.{field}" for field in fields)
        return target

    def _free(self, name: str) -> str:
        parts = name.split(".")
        above = {".".join(parts[:end]) for end in range(1, len(parts))}
        usable = all(re.fullmatch(r"\w+", part) and part not in _taken() for part in parts)
        usable = usable and not any(map(keyword.iskeyword, parts))
        if usable and not above & self._tensors and name not in self._tensors | self._modules:
            return name
        plain = candidate = "onnx_" + re.sub(r"\W", "_", name)
        number = 0
        while candidate in self._tensors | self._modules:
            number += 1
            candidate = f"{plain}_{number}"
        return candidate

    def _add_modules(self, path: str) -> None:
        owner, prefix = self._root, ""
        for part in path.split(".") if path else []:
            prefix = f"{prefix}.{part}" if prefix else part
            if prefix not in self._modules:
                owner.add_module(part, nn.Module())
                self._modules.add(prefix)
            owner = owner.get_submodule(part)
