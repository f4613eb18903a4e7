"""Every classifier of torchvision and timm: names and shapes of its tensors, and where its head and its stem are.

``index.json.gz`` holds them, as ``make_index`` wrote it, so that recognition builds no network and needs no timm.
"""

import gzip
import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from converter.load.bodies.tree import Node, Shape

FILE = "index.json.gz"
TIMM = "timm:"
"""What the names of timm's architectures begin with, as ``--arch`` takes them."""


@dataclass(frozen=True)
class Architecture:
    """A classifier by its name as ``--arch`` takes it.

    ``same`` are names of networks that compute the same with the same weights, ``head`` the modules whose outputs are
    the classes, ``stem`` the convolutions that take the image, ``children`` the names of the network's own modules in
    their order, also those without weights.
    """

    name: str
    same: tuple[str, ...]
    line: int
    head: tuple[str, ...]
    stem: tuple[str, ...]
    children: tuple[str, ...]

    @property
    def of_timm(self) -> bool:
        return self.name.startswith(TIMM)

    @property
    def plain_names(self) -> set[str]:
        """Its names without the library."""
        return {name.removeprefix(TIMM) for name in (self.name, *self.same)}

    @property
    def title(self) -> str:
        """The name with the library it's from, for a sentence."""
        return f"timm's {self.name.removeprefix(TIMM)}" if self.of_timm else f"torchvision's {self.name}"

    @cached_property
    def tree(self) -> Node:
        """Names and shapes of its tensors, for 1000 classes and images of 3 channels."""
        return node(self.line)


@dataclass(frozen=True)
class Index:
    """The architectures, torchvision's first, the lines that their trees are made of, and the libraries' versions."""

    architectures: tuple[Architecture, ...]
    lines: tuple[str, ...]
    versions: dict[str, str]

    def named(self, name: str) -> Architecture | None:
        """The architecture that is called ``name``, or that computes the same."""
        exact = (entry for entry in self.architectures if entry.name == name)
        same = (entry for entry in self.architectures if name in entry.same)
        return next(exact, None) or next(same, None)


@cache
def index() -> Index:
    """The index of the package."""
    content = files("converter.load.bodies").joinpath(FILE).read_bytes()
    raw: dict[str, Any] = json.loads(gzip.decompress(content))
    entries = [{key: _frozen(value) for key, value in entry.items()} for entry in raw["architectures"]]
    return Index(tuple(Architecture(**entry) for entry in entries), tuple(raw["lines"]), raw["versions"])


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@cache
def node(number: int) -> Node:
    """The module of a line of the index: ``name=64x3x7x7`` is a tensor and ``name:12`` the module of line 12."""
    children: dict[str, Node | Shape] = {}
    for item in index().lines[number].split():
        name, is_tensor, sizes = item.partition("=")
        if is_tensor:
            children[name] = tuple(map(int, sizes.split("x"))) if sizes else ()
        else:
            name, _, line = item.partition(":")
            children[name] = node(int(line))
    return Node(children)
