"""How weights fit an architecture: body, first convolution and head."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Literal

from converter.load.bodies.heads import Head, NotAHeadError, head_from_shapes
from converter.load.bodies.index import Architecture
from converter.load.bodies.own_names import own_names
from converter.load.bodies.readings import Near, joined
from converter.load.bodies.tree import Difference, Node, Shape, at, names_of
from zscgan_common.text import cut

_POSITIONS = ("encoder.pos_embedding", "pos_embed")
"""The embedding of positions in the transformers of torchvision and of timm."""
_MOST_TOKENS = 5
"""Without a place in the image, that positions may begin with: of the class, of distillation, registers."""
_SIDES = (6, 7)
"""Of what AlexNet's and VGG's pooling gives for each channel."""


@dataclass(frozen=True)
class Stem:
    """A first convolution that isn't the architecture's: its channels, and whether it is 3x3 in the place of 7x7.

    ``bias`` says that it has a bias where the architecture's has none.
    """

    channels: int
    small: bool
    bias: bool = False


@dataclass(frozen=True)
class Fit:
    """An architecture that weights fit, and what of it is another.

    ``names`` has the architecture's name for each name of the file. ``classes`` is None for a network without a head;
    ``place`` and ``head`` are the module that was replaced and the layers that replace it. ``others`` are architectures
    of the same names and shapes that compute something else; ``is_named`` says that the file's texts decided between
    them. ``pools_twice`` says that the head takes the maximum and
    the mean of each channel, as fastai's heads do, ``pools_to_one`` that it takes one value of each channel where the
    architecture's takes several, as VGG's does. ``image_size`` is that of a transformer for other
    images than the architecture's.
    """

    architecture: Architecture
    names: Mapping[str, str] = field(repr=False)
    classes: int | None
    place: str | None = None
    head: Head | None = None
    stem: Stem | None = None
    pools_twice: bool = False
    pools_to_one: bool = False
    image_size: int | None = None
    others: tuple[str, ...] = ()
    is_named: bool = False

    @property
    def oddity(self) -> int:
        """How much of it is not as the architecture has it."""
        return (
            2 * (self.classes is None or self.head is not None)
            + (self.stem is not None)
            + (self.image_size is not None)
        )

    @property
    def title(self) -> str:
        """The architecture, its library and its classes, for a sentence."""
        if self.classes is None:
            return f"{self.architecture.title} without its head"
        return f"{self.architecture.title} with {self.classes} class{'es' * (self.classes != 1)}"


def fit_from_reading(near: Near, shapes: Mapping[str, Shape]) -> Fit | str:
    """How the file fits an architecture; a text where it doesn't, which says why where only the head is at fault."""
    architecture = near.architecture
    found = near.difference()
    stem = _stem(near, found)
    kept = {f"{path}.weight" for path in architecture.stem} if stem is not None else set()
    image_size = _image_size(near)
    kept |= set(_POSITIONS) if image_size is not None else set()
    reason = ""
    for scope in _scopes(architecture):
        odd = {name for name in (*found.missing, *found.reshaped) if not _within(name, *scope)}
        if odd <= kept:
            try:
                return replace(_with_head(near, found, scope, stem, shapes), image_size=image_size)
            except NotAHeadError as error:
                reason = str(error)
    return reason


def _scopes(architecture: Architecture) -> tuple[tuple[str, ...], ...]:
    """The modules that a new head may have replaced: the last layers, and the Sequential that a single one is in."""
    scopes: tuple[tuple[str, ...], ...] = (architecture.head,)
    if len(architecture.head) == 1:
        parent, _, last = architecture.head[0].rpartition(".")
        if parent and (last.isdecimal() or parent == "heads"):
            scopes += ((parent,),)
    return scopes


def _within(name: str, *modules: str) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _stem(near: Near, found: Difference) -> Stem | None:
    """The first convolution of the file, where it isn't the architecture's and can take its place."""
    architecture, tree = near.architecture, near.reading.tree_for(near.architecture)
    stems = set()
    for path in architecture.stem:
        bias = f"{path}.bias" in found.unknown
        if f"{path}.weight" not in found.reshaped and not bias:
            continue
        ours, theirs = at(tree, f"{path}.weight"), at(architecture.tree, f"{path}.weight")
        if isinstance(ours, Node) or isinstance(theirs, Node) or ours is None or theirs is None:
            return None
        small = theirs[2:] == (7, 7) and ours[2:] == (3, 3) and _has_pool(architecture)
        same_kernel = ours[2:] == theirs[2:]
        if len(ours) != 4 or ours[0] != theirs[0] or ours[1] < 1 or not (same_kernel or small):
            return None
        stems.add(Stem(ours[1], small, bias))
    return stems.pop() if len(stems) == 1 else None


def _image_size(near: Near) -> int | None:
    """The size of images that a transformer has positions for, where it isn't the architecture's."""
    tree, theirs = near.reading.tree_for(near.architecture), near.architecture.tree
    patches = at(theirs, f"{near.architecture.stem[0]}.weight") if near.architecture.stem else None
    for name in _POSITIONS:
        ours, own = at(tree, name), at(theirs, name)
        if not isinstance(ours, tuple) or not isinstance(own, tuple) or not isinstance(patches, tuple):
            continue
        if len(ours) != 3 or len(own) != 3 or ours == own or (ours[0], ours[2]) != (own[0], own[2]):
            continue
        tokens = next((count for count in range(_MOST_TOKENS + 1) if _side(own[1] - count)), None)
        if tokens is not None and (side := _side(ours[1] - tokens)):
            return side * patches[-1]
    return None


def _side(places: int) -> int:
    """The side of a square of so many places; 0 where it's none."""
    side = isqrt(max(places, 0))
    return side if side**2 == places else 0


def _has_pool(architecture: Architecture) -> bool:
    """Whether a max pool follows the first convolution, as in a ResNet and a DenseNet."""
    return "maxpool" in architecture.children or architecture.stem == ("features.conv0",)


def _with_head(
    near: Near, found: Difference, scope: tuple[str, ...], stem: Stem | None, shapes: Mapping[str, Shape]
) -> Fit:
    """The fit of a body whose only other tensors are in ``scope`` or beside it; raises NotAHeadError."""
    architecture, reading = near.architecture, near.reading
    biases = {f"{path}.bias" for path in architecture.stem} if stem is not None and stem.bias else set()
    unknown = [name for name in found.unknown if name not in biases]
    foreign = [reading.absolute(architecture, n) for n in unknown if not _within(n, *scope)]
    foreign += reading.beside
    tree = reading.tree_for(architecture)
    present = [module for module in scope if at(tree, module) is not None]
    if foreign and present:
        raise NotAHeadError(f"beside {cut(present, 2)} the file has {cut(foreign, 3)}")
    names = _names(near, shapes)
    if not foreign and not present:
        return Fit(architecture, names, None, scope[0] if scope else None, stem=stem)
    odd = [name for name in (*found.missing, *unknown) if _within(name, *scope)]
    if not foreign and not odd and (classes := _plain_classes(near, found, scope)) is not None:
        return Fit(architecture, names, classes, stem=stem)
    module = _common_module(foreign) if foreign else reading.absolute(architecture, scope[0])
    if len(scope) != 1 or any("." not in name for name in foreign):
        raise NotAHeadError(f"its layers are {cut(foreign or list(scope), 3)}")
    head, old_names = _head_in(module, shapes, foreign)
    pools = _pools(head, architecture, scope[0])
    names |= {old: joined(scope[0], name) for old, name in old_names.items()}
    twice, to_one = pools == "twice", pools == "to one"
    return Fit(architecture, names, head.classes, scope[0], head, stem, twice, to_one)


def _head_in(module: str, shapes: Mapping[str, Shape], beside: Iterable[str]) -> tuple[Head, dict[str, str]]:
    """The head in ``module`` of the file, or whose layers lie ``beside`` the body, where ``module`` is empty.

    Also its own name for each name of the file. Raises NotAHeadError.
    """
    layers = (module,) if module else tuple({name.rpartition(".")[0]: None for name in beside})
    start = len(module) + 1 if module else 0
    names = {old: name[start:] for old, name in own_names(shapes).items() if _within(name, *layers)}
    tensors = {name: shapes[old] for old, name in names.items() if not name.endswith("num_batches_tracked")}
    return head_from_shapes(tensors), names


def _plain_classes(near: Near, found: Difference, scope: tuple[str, ...]) -> int | None:
    """The classes of a head that is the architecture's own but for their number; None for another head."""
    tree, architecture = near.reading.tree_for(near.architecture), near.architecture
    own = {f"{path}.{tensor}" for path in architecture.head for tensor in ("weight", "bias")}
    changed = [name for name in found.reshaped if _within(name, *scope)]
    if not set(changed) <= own:
        return None
    counts = set()
    for name in own:
        ours, theirs = at(tree, name), at(architecture.tree, name)
        if isinstance(ours, tuple) and isinstance(theirs, tuple):
            if len(ours) != len(theirs) or ours[1:] != theirs[1:]:
                return None
            counts.add(ours[0])
    return counts.pop() if len(counts) == 1 else None


def _pools(head: Head, architecture: Architecture, place: str) -> Literal["", "twice", "to one"]:
    """How another pooling feeds ``head`` than what is at ``place``; empty for the same, NotAHeadError for none."""
    own = at(architecture.tree, place)
    assert isinstance(own, Node)
    theirs = head_from_shapes({name: _shape(own, name) for name in names_of(own)})
    if head.spatial != theirs.spatial:
        raise NotAHeadError(
            f"it begins with {head.layers[0].kind}, where {theirs.layers[0].kind} is expected"
        )
    if head.inputs == theirs.inputs:
        return ""
    if head.inputs == 2 * theirs.inputs and place == architecture.head[0] and not head.spatial:
        return "twice"
    if head.inputs in {theirs.inputs / side**2 for side in _SIDES} and "avgpool" in architecture.children:
        return "to one"
    raise NotAHeadError(f"it takes {head.inputs} values and the body gives {theirs.inputs}")


def _shape(tree: Node, name: str) -> Shape:
    entry = at(tree, name)
    assert isinstance(entry, tuple)
    return entry


def _common_module(names: Iterable[str]) -> str:
    """The deepest module that holds all ``names``; empty where there is none."""
    first, *others = [name.split(".")[:-1] for name in names]
    depth = 0
    while depth < len(first) and all(other[: depth + 1] == first[: depth + 1] for other in others):
        depth += 1
    return ".".join(first[:depth])


def _names(near: Near, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The architecture's name for each name of the file that is in the body."""
    reading = near.reading
    return {
        old: reading.relative(near.architecture, name)
        for old, name in own_names(shapes).items()
        if not reading.prefix or _within(name, reading.prefix)
    }
