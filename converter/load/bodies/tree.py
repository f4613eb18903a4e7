"""Names and shapes of tensors as a tree of modules, and how two such trees differ.

Equal subtrees are one object: a ResNet repeats its blocks, and architectures repeat one another's, so that two trees
are compared in far fewer steps than they have tensors.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Shape = tuple[int, ...]

_DEEPEST = 30
"""Levels of a name; what a damaged file has beyond is one last part."""


@dataclass(frozen=True, eq=False)
class Node:
    """A module: its tensors and modules by name, and the number of tensors below; compared by identity."""

    children: Mapping[str, "Node | Shape"]
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", sum(map(count, self.children.values())))


@dataclass(frozen=True)
class Difference:
    """Names that only the one tree has, that only the other has, and that have another shape in each."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.reshaped)


def tree_of(shapes: Mapping[str, Shape]) -> Node:
    """The tree of ``shapes``, by full name; counters of batch norms, which old checkpoints lack, are left out."""
    nested: dict[str, object] = {}
    for name, shape in shapes.items():
        *path, last = name.split(".", _DEEPEST)
        if last == "num_batches_tracked":
            continue
        place = nested
        for part in path:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):  # of a tensor that is called like a module
                inner = place[part] = {"": inner}
            place = inner
        place[last] = shape if not isinstance(place.get(last), dict) else {**place[last], "": shape}  # type: ignore[dict-item]
    return _interned(nested, {})


def _interned(nested: Mapping[str, object], known: dict[object, Node]) -> Node:
    """The node of ``nested``, the same one for equal modules."""
    children = {
        name: _interned(value, known) if isinstance(value, dict) else value for name, value in nested.items()
    }
    key = tuple((name, id(value) if isinstance(value, Node) else value) for name, value in children.items())
    return known.setdefault(key, Node(children))  # type: ignore[arg-type]


def count(entry: "Node | Shape") -> int:
    """The number of tensors in ``entry``."""
    return entry.count if isinstance(entry, Node) else 1


def names_of(entry: "Node | Shape", prefix: str = "") -> Iterator[str]:
    """The full names of the tensors in ``entry``."""
    if isinstance(entry, Node):
        for name, child in entry.children.items():
            yield from names_of(child, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix


def at(tree: Node, path: str) -> "Node | Shape | None":
    """What ``tree`` has at ``path``; the tree itself for an empty path, None where there is nothing."""
    entry: Node | Shape | None = tree
    for part in path.split(".") if path else ():
        entry = entry.children.get(part) if isinstance(entry, Node) else None
    return entry


class Comparison:
    """Counts the tensors in which trees differ; pairs of modules that were seen before cost nothing."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], int] = {}

    def distance(self, ours: "Node | Shape", theirs: "Node | Shape") -> int:
        """The number of names that one of the two alone has, or that have another shape."""
        if not isinstance(ours, Node) or not isinstance(theirs, Node):
            if isinstance(ours, Node) or isinstance(theirs, Node):
                return count(ours) + count(theirs)
            return int(ours != theirs)
        if ours is theirs:
            return 0
        key = (id(ours), id(theirs))
        if key not in self._seen:
            shared = ours.children.keys() & theirs.children.keys()
            alone = ours.count + theirs.count
            for name in shared:
                alone -= count(ours.children[name]) + count(theirs.children[name])
            within = sum(self.distance(ours.children[name], theirs.children[name]) for name in shared)
            self._seen[key] = alone + within
        return self._seen[key]


def difference(ours: Node, theirs: Node) -> Difference:
    """The tensors in which ``ours``, of a file, and ``theirs``, of an architecture, differ."""
    missing: list[str] = []
    unknown: list[str] = []
    reshaped: list[str] = []
    _walk(ours, theirs, "", missing, unknown, reshaped)
    return Difference(tuple(missing), tuple(unknown), tuple(reshaped))


def _walk(
    ours: "Node | Shape",
    theirs: "Node | Shape",
    path: str,
    missing: list[str],
    unknown: list[str],
    reshaped: list[str],
) -> None:
    if not isinstance(ours, Node) or not isinstance(theirs, Node):
        if isinstance(ours, Node) or isinstance(theirs, Node):
            unknown.extend(names_of(ours, path))
            missing.extend(names_of(theirs, path))
        elif ours != theirs:
            reshaped.append(path)
        return
    for name in _both(theirs.children, ours.children):
        inner = f"{path}.{name}" if path else name
        if name not in ours.children:
            missing.extend(names_of(theirs.children[name], inner))
        elif name not in theirs.children:
            unknown.extend(names_of(ours.children[name], inner))
        else:
            _walk(ours.children[name], theirs.children[name], inner, missing, unknown, reshaped)


def _both(first: Iterable[str], second: Iterable[str]) -> Iterator[str]:
    """The names of ``first``, then those of ``second`` that it lacks."""
    return iter(dict.fromkeys([*first, *second]))
