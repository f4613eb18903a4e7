"""The classifier behind a body, rebuilt from the names and shapes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from converter.load.bodies.tree import Shape

Kind = Literal["Linear", "Conv2d", "BatchNorm", "LayerNorm", "PReLU"]
_PARAMETERS = {"weight", "bias"}
_STATISTICS = {"running_mean", "running_var"}


class NotAHeadError(ValueError):
    """The tensors are no chain of layers that ends in classes; the text says why."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights: its name in the head, empty where it is the head, and its widths."""

    name: str
    kind: Kind
    inputs: int
    outputs: int
    parameters: frozenset[str]

    @property
    def mixes(self) -> bool:
        """Whether it computes each output of all inputs, as the layers do that stand between activations."""
        return self.kind in ("Linear", "Conv2d")

    def build(self, *, spatial: bool) -> nn.Module:
        """The layer, for images where ``spatial`` and for vectors otherwise."""
        bias = "bias" in self.parameters
        if self.kind == "Linear":
            return nn.Linear(self.inputs, self.outputs, bias=bias)
        if self.kind == "Conv2d":
            return nn.Conv2d(self.inputs, self.outputs, 1, bias=bias)
        if self.kind == "LayerNorm":
            return nn.LayerNorm(self.inputs)
        if self.kind == "PReLU":
            return nn.PReLU(self.inputs)
        affine = "weight" in self.parameters
        return (nn.BatchNorm2d if spatial else nn.BatchNorm1d)(self.inputs, affine=affine)

    def describe(self) -> str:
        return f"{self.kind} {self.inputs}→{self.outputs}" if self.mixes else self.kind


@dataclass(frozen=True)
class Head:
    """The layers of a classifier in their order, and those behind which an activation is assumed."""

    layers: tuple[Layer, ...]
    activated: frozenset[str]

    @property
    def inputs(self) -> int:
        return self.layers[0].inputs

    @property
    def classes(self) -> int:
        return self.layers[-1].outputs

    @property
    def spatial(self) -> bool:
        """Whether it takes images and not vectors."""
        return any(layer.kind == "Conv2d" for layer in self.layers)

    @cached_property
    def text(self) -> str:
        """The layers in one line, as "Linear 512→256, ReLU, Linear 256→7"."""
        parts = []
        for layer in self.layers:
            parts += [layer.describe(), *(["ReLU"] if layer.name in self.activated else [])]
        return ", ".join(parts)

    def build(self) -> nn.Module:
        """The head as a module whose tensors have the names that they have in the file."""
        if self.layers[0].name:
            return _Chain(self)
        return self.layers[0].build(spatial=self.spatial)


class _Chain(nn.Module):
    """A head of named layers, which runs them in their order."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self._names = [layer.name for layer in head.layers]
        self._activated = head.activated
        self._flattens = not head.spatial
        for layer in head.layers:
            *path, last = layer.name.split(".")
            place: nn.Module = self
            for part in path:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(last, layer.build(spatial=head.spatial))

    def forward(self, x: Tensor) -> Tensor:
        if self._flattens and x.dim() > 2:
            x = x.flatten(1)
        for name in self._names:
            x = self.get_submodule(name)(x)
            if name in self._activated:
                x = torch.relu(x)
        return x


def head_from_shapes(shapes: Mapping[str, Shape]) -> Head:
    """The head whose tensors have these names, without the head's own, and shapes.

    Numbers are those of a Sequential: they give the order, and their gaps the places of layers without weights. Other
    names come in the order given. Raises NotAHeadError.
    """
    modules: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        module, _, tensor = name.rpartition(".")
        modules.setdefault(module, {})[tensor] = shape
    names = list(modules)
    if all(part.isdecimal() for name in names for part in name.split(".")):
        names.sort(key=_numbers)
    layers = tuple(_layer(name, modules[name]) for name in names)
    for one, following in pairwise(layer for layer in layers if layer.kind != "PReLU"):
        if one.outputs != following.inputs:
            raise NotAHeadError(
                f"{one.name} gives {one.outputs} values and {following.name} takes {following.inputs}"
            )
    mixing = [place for place, layer in enumerate(layers) if layer.mixes]
    if not mixing:
        raise NotAHeadError("it has no Linear")
    pairs = pairwise(mixing)
    activated = [_activated(layers[first : second + 1]) for first, second in pairs]
    return Head(layers, frozenset(name for name in activated if name is not None))


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))


def _layer(name: str, tensors: Mapping[str, Shape]) -> Layer:
    """The layer that has ``tensors``."""
    weight = tensors.get("weight", ())
    keys = frozenset(tensors)
    if (
        len(keys - _STATISTICS - _PARAMETERS)
        or min((size for s in tensors.values() for size in s), default=0) < 0
    ):
        raise NotAHeadError(f"{name or 'it'} has {', '.join(sorted(tensors))}")
    if keys >= _STATISTICS and len({*tensors.values()}) == 1 and len(tensors["running_mean"]) == 1:
        (width,) = tensors["running_mean"]
        return Layer(name, "BatchNorm", width, width, keys)
    sound = keys <= _PARAMETERS and tensors.get("bias", weight[:1]) == weight[:1]
    if sound and len(weight) == 2:
        return Layer(name, "Linear", weight[1], weight[0], keys)
    if sound and len(weight) == 4 and weight[2:] == (1, 1):
        return Layer(name, "Conv2d", weight[1], weight[0], keys)
    if sound and len(weight) == 1:
        return Layer(name, "LayerNorm" if "bias" in keys else "PReLU", weight[0], weight[0], keys)
    shown = ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in sorted(tensors.items()))
    raise NotAHeadError(f"{name or 'it'} has {shown}")


def _activated(layers: tuple[Layer, ...]) -> str | None:
    """The layer behind which an activation is assumed, of those from one mixing layer to the next, or None.

    It stands in the first gap of a Sequential's numbers. Names tell no gap: there it comes last.
    """
    if any(layer.kind == "PReLU" for layer in layers):
        return None
    if not all(part.isdecimal() for layer in layers for part in layer.name.split(".")):
        return layers[-2].name
    for one, following in pairwise(layers):
        *place, number = _numbers(one.name)
        *other, next_number = _numbers(following.name)
        if place != other or next_number - number > 1:
            return one.name
    return None
