"""The readings of a file: which module of it may be an architecture, and under which names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from converter.load.bodies.index import Architecture
from converter.load.bodies.own_names import own_names
from converter.load.bodies.tree import Difference, Node, Shape, difference, names_of, tree_of

_FEATURES = "features"
"""What torchvision calls the body of networks that aren't ResNets; people build on it alone."""


@dataclass(frozen=True)
class Reading:
    """A reading of the file: the subtree that may be a body, its place, and the names beside it.

    ``numbered`` says that a Sequential of the architecture's children may have only numbers; ``inside`` is the module
    of the architecture that the subtree is, empty for the whole of it.
    """

    tree: Node
    prefix: str
    beside: tuple[str, ...]
    numbered: bool = False
    inside: str = ""

    def tree_for(self, architecture: Architecture) -> Node:
        """The tree under the architecture's names."""
        if self.inside:
            return Node({self.inside: self.tree})
        if not self.numbered:
            return self.tree
        children = {_child(architecture, name): entry for name, entry in self.tree.children.items()}
        return Node(children)

    def relative(self, architecture: Architecture, name: str) -> str:
        """The architecture's name for ``name``, which is in the body."""
        name = name[len(self.prefix) + 1 :] if self.prefix else name
        first, _, rest = name.partition(".")
        return joined(_child(architecture, first), rest) if self.numbered else joined(self.inside, name)

    def absolute(self, architecture: Architecture, name: str) -> str:
        """The file's name for a name of the architecture."""
        first, _, rest = name.removeprefix(f"{self.inside}." if self.inside else "").partition(".")
        if self.numbered and first in architecture.children:
            first = str(architecture.children.index(first))
        return joined(self.prefix, first, rest)


def _child(architecture: Architecture, number: str) -> str:
    """The architecture's child at ``number``, which is kept where there is none."""
    known = architecture.children
    return known[int(number)] if len(number) < 4 and int(number) < len(known) else number


@dataclass(frozen=True)
class Near:
    """An architecture and a reading of the file, with the number of tensors in which they differ."""

    distance: int
    architecture: Architecture
    reading: Reading

    def difference(self) -> Difference:
        return difference(self.reading.tree_for(self.architecture), self.architecture.tree)


def readings(shapes: Mapping[str, Shape]) -> Iterator[Reading]:
    """The readings of the file: as it is, then the modules in it that hold most of its tensors."""
    tree = tree_of({new: shapes[name] for name, new in own_names(shapes).items()})
    total, prefix = tree.count, ""
    beside: tuple[str, ...] = ()
    while True:
        yield Reading(tree, prefix, beside)
        if tree.children and all(name.isdecimal() for name in tree.children):
            yield Reading(tree, prefix, beside, numbered=True)
        if beside or prefix:
            yield Reading(tree, prefix, beside, inside=_FEATURES)
        largest = max(
            ((entry.count, name) for name, entry in tree.children.items() if isinstance(entry, Node)),
            default=(0, ""),
        )
        if largest[0] * 2 < total or not largest[0]:
            return
        beside += tuple(
            name
            for child, entry in tree.children.items()
            if child != largest[1]
            for name in names_of(entry, joined(prefix, child))
        )
        inner = tree.children[largest[1]]
        assert isinstance(inner, Node)
        tree, prefix = inner, joined(prefix, largest[1])


def joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
