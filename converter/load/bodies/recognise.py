"""The architecture that weights fit, told by the names and shapes of their tensors alone.

The body has to fit exactly. Its head may be any chain of layers, under the architecture's name for it or another, or be
absent; its first convolution may take another number of channels, or be that of a network for CIFAR.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isqrt
from typing import Literal

from converter.errors import ArchitectureError
from converter.load.bodies.heads import Head, NotAHeadError, head_from_shapes
from converter.load.bodies.index import TIMM, Architecture, index
from converter.load.bodies.tree import Comparison, Difference, Node, Shape, at, difference, names_of, tree_of
from zscgan_common.text import cut

_OTHERS = 40
"""Tensors of head and stem in which a file and an architecture may differ that fit."""
_ALIKE = 0.3
"""The share of names with equal shapes from which on an architecture is worth naming as the nearest."""

# They train and never run in eval mode: the classifiers of GoogLeNet and Inception, the token of masked patches.
_AUXILIARY = re.compile(r"(?:^|\.)(?:(?:aux1|aux2|AuxLogits)\.|mask_token$)")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
_USUAL_HEAD = re.compile(
    r"^(?:\w+\.)?(?:fc|head|heads|classifier|last_linear|linear|logits)(?:\.(?:\d+|head|fc|linear))*\.weight$"
)
_TAG = re.compile(r"\..*$")
"""What ends timm's names: which weights they are of."""
_OF_TRANSFORMERS = re.compile(
    r"(?:resnet|regnet|vit|deit|beit|swin|dinov2|convnext\w*|efficientnet|mobilenet_v\d)"
    r"\.(?:embedder|embeddings|encoder|conv_stem)\."
)
_POSITIONS = ("encoder.pos_embedding", "pos_embed")
"""The embedding of positions in the transformers of torchvision and of timm."""
_MOST_TOKENS = 5
"""Without a place in the image, that positions may begin with: of the class, of distillation, registers."""
_FEATURES = "features"
"""What torchvision calls the body of networks that aren't ResNets; people build on it alone."""
_SHORTCUT = re.compile(r"(layer\d+\.\d+)\.shortcut\.")
_SIDES = (6, 7)
"""Of what AlexNet's and VGG's pooling gives for each channel."""
_NAMED_BY_STAGE = re.compile(r"(?:^|\.)conv2_x\.0\.residual_function\.0\.weight$")
"""In a ResNet whose stages are conv2_x to conv5_x, as the paper calls them."""
_STAGE = re.compile(r"(^|\.)conv([2-5])_x\.(\d+)\.")
_STEP = re.compile(r"\.residual_function\.(\d+)\.")
_STEM = re.compile(r"(^|\.)conv1\.([01])\.")


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


@dataclass(frozen=True)
class _Variant:
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
        return _joined(_child(architecture, first), rest) if self.numbered else _joined(self.inside, name)

    def absolute(self, architecture: Architecture, name: str) -> str:
        """The file's name for a name of the architecture."""
        first, _, rest = name.removeprefix(f"{self.inside}." if self.inside else "").partition(".")
        if self.numbered and first in architecture.children:
            first = str(architecture.children.index(first))
        return _joined(self.prefix, first, rest)


def _child(architecture: Architecture, number: str) -> str:
    """The architecture's child at ``number``, which is kept where there is none."""
    known = architecture.children
    return known[int(number)] if len(number) < 4 and int(number) < len(known) else number


@dataclass(frozen=True)
class _Near:
    """An architecture and a reading of the file, with the number of tensors in which they differ."""

    distance: int
    architecture: Architecture
    variant: _Variant

    def difference(self) -> Difference:
        return difference(self.variant.tree_for(self.architecture), self.architecture.tree)


def recognise(shapes: Mapping[str, Shape], words: frozenset[str] = frozenset()) -> Fit:
    """The one architecture of torchvision or timm whose body these tensors fit.

    Of several it's the one that ``words``, the texts beside the weights, name; else one of torchvision's comes before
    those of timm. Raises ArchitectureError for several, and with
    the nearest for none.
    """
    near: list[_Near] = []
    for variant in _variants(shapes):
        found = _nearest(variant, index().architectures)
        near += found[:1]
        fits = _fits(found, shapes)
        if fits:
            return _with_classes(_only(fits, words))
    raise ArchitectureError(_unrecognised(shapes, near))


def fit_of(architecture: Architecture, shapes: Mapping[str, Shape]) -> Fit | None:
    """How these tensors fit ``architecture``, or None."""
    for variant in _variants(shapes):
        if fits := _fits(_nearest(variant, [architecture]), shapes):
            return _with_classes(fits[0])
    return None


def _with_classes(fit: Fit) -> Fit:
    """``fit``; raises ArchitectureError where its head has no outputs."""
    if fit.classes == 0:
        raise ArchitectureError(
            f"the head of these weights, {fit.architecture.title}, has 0 classes; expected at least 1"
        )
    return fit


def classes_of(shapes: Mapping[str, Shape]) -> int | None:
    """Outputs of the last layer of weights whose network is unknown, where it has one of the usual names."""
    last = [name for name in shapes if _USUAL_HEAD.search(name) and len(shapes[name]) in (2, 4)]
    ordered = sorted(last, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    return shapes[ordered[-1]][0] if ordered else None


def own_names(shapes: Iterable[str]) -> dict[str, str]:
    """torchvision's name for each name of a file: DenseNet's of before 2018, a ResNet's shortcut, or its stages.

    What never runs in eval mode is left out.
    """
    kept = [name for name in shapes if not _AUXILIARY.search(name)]
    by_stage = any(_NAMED_BY_STAGE.search(name) for name in kept)
    names = {name: _of_stage(name) if by_stage else name for name in kept}
    return {
        name: _SHORTCUT.sub(r"\1.downsample.", _OLD_DENSENET.sub(r"\1\2.", new))
        for name, new in names.items()
    }


def _of_stage(name: str) -> str:
    """torchvision's name for one of a ResNet whose stages are ``conv2_x`` to ``conv5_x``."""

    def step(found: re.Match[str]) -> str:
        place, number = divmod(int(found[1]), 3)  # convolution, batch norm, ReLU
        return f".{('conv', 'bn', 'relu')[number]}{place + 1}."

    name = _STEM.sub(lambda found: f"{found[1]}{('conv1', 'bn1')[int(found[2])]}.", name)
    name = _STAGE.sub(lambda found: f"{found[1]}layer{int(found[2]) - 1}.{found[3]}.", name)
    return _STEP.sub(step, name)


def _variants(shapes: Mapping[str, Shape]) -> Iterator[_Variant]:
    """The readings of the file: as it is, then the modules in it that hold most of its tensors."""
    tree = tree_of({new: shapes[name] for name, new in own_names(shapes).items()})
    total, prefix = tree.count, ""
    beside: tuple[str, ...] = ()
    while True:
        yield _Variant(tree, prefix, beside)
        if tree.children and all(name.isdecimal() for name in tree.children):
            yield _Variant(tree, prefix, beside, numbered=True)
        if beside or prefix:
            yield _Variant(tree, prefix, beside, inside=_FEATURES)
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
            for name in names_of(entry, _joined(prefix, child))
        )
        inner = tree.children[largest[1]]
        assert isinstance(inner, Node)
        tree, prefix = inner, _joined(prefix, largest[1])


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _nearest(variant: _Variant, architectures: Iterable[Architecture]) -> list[_Near]:
    """The architectures in the order of their distance from the file."""
    compare = Comparison()
    found = [
        _Near(compare.distance(variant.tree_for(entry), entry.tree), entry, variant)
        for entry in architectures
    ]
    # Their order is kept among equal ones: torchvision's come first.
    return sorted(found, key=lambda near: near.distance)


def _fits(near: Iterable[_Near], shapes: Mapping[str, Shape]) -> list[Fit]:
    """The architectures that fit, of which the least had to be replaced."""
    close = [item for item in near if item.distance <= _OTHERS]
    found = [fit for item in close if isinstance(fit := _fit(item, shapes), Fit)]
    least = min((fit.oddity for fit in found), default=0)
    return [fit for fit in found if fit.oddity == least]


def _only(fits: list[Fit], words: frozenset[str]) -> Fit:
    """The one that is taken of several that fit; raises ArchitectureError where the user has to say which."""
    spoken = {_TAG.sub("", word.rpartition("/")[2].removeprefix(TIMM)) for word in words}
    named = [fit for fit in fits if fit.architecture.plain_names & spoken]
    if len(fits) > 1 and len(named) == 1:
        return replace(named[0], is_named=True)
    of_torchvision = [fit for fit in fits if not fit.architecture.of_timm]
    names = [fit.architecture.name for fit in fits]
    if len(fits) > 1 and len(of_torchvision) != 1:
        raise ArchitectureError(
            f"the weights fit several architectures alike, which compute different things: {', '.join(names)}; say "
            f"which: --arch {names[0]}"
        )
    best = (of_torchvision or fits)[0]
    return replace(best, others=tuple(name for name in names if name != best.architecture.name))


def _fit(near: _Near, shapes: Mapping[str, Shape]) -> Fit | str:
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


def _stem(near: _Near, found: Difference) -> Stem | None:
    """The first convolution of the file, where it isn't the architecture's and can take its place."""
    architecture, tree = near.architecture, near.variant.tree_for(near.architecture)
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


def _image_size(near: _Near) -> int | None:
    """The size of images that a transformer has positions for, where it isn't the architecture's."""
    tree, theirs = near.variant.tree_for(near.architecture), near.architecture.tree
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
    near: _Near, found: Difference, scope: tuple[str, ...], stem: Stem | None, shapes: Mapping[str, Shape]
) -> Fit:
    """The fit of a body whose only other tensors are in ``scope`` or beside it; raises NotAHeadError."""
    architecture, variant = near.architecture, near.variant
    biases = {f"{path}.bias" for path in architecture.stem} if stem is not None and stem.bias else set()
    unknown = [name for name in found.unknown if name not in biases]
    foreign = [variant.absolute(architecture, n) for n in unknown if not _within(n, *scope)]
    foreign += variant.beside
    tree = variant.tree_for(architecture)
    present = [module for module in scope if at(tree, module) is not None]
    if foreign and present:
        raise NotAHeadError(f"beside {cut(present, 2)} the file has {cut(foreign, 3)}")
    names = _names(near, shapes)
    if not foreign and not present:
        return Fit(architecture, names, None, scope[0] if scope else None, stem=stem)
    odd = [name for name in (*found.missing, *unknown) if _within(name, *scope)]
    if not foreign and not odd and (classes := _plain_classes(near, found, scope)) is not None:
        return Fit(architecture, names, classes, stem=stem)
    module = _common_module(foreign) if foreign else variant.absolute(architecture, scope[0])
    if len(scope) != 1 or any("." not in name for name in foreign):
        raise NotAHeadError(f"its layers are {cut(foreign or list(scope), 3)}")
    head, old_names = _head_in(module, shapes, foreign)
    pools = _pools(head, architecture, scope[0])
    names |= {old: _joined(scope[0], name) for old, name in old_names.items()}
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


def _plain_classes(near: _Near, found: Difference, scope: tuple[str, ...]) -> int | None:
    """The classes of a head that is the architecture's own but for their number; None for another head."""
    tree, architecture = near.variant.tree_for(near.architecture), near.architecture
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


def _names(near: _Near, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The architecture's name for each name of the file that is in the body."""
    variant = near.variant
    return {
        old: variant.relative(near.architecture, name)
        for old, name in own_names(shapes).items()
        if not variant.prefix or _within(name, variant.prefix)
    }


def _unrecognised(shapes: Mapping[str, Shape], near: Iterable[_Near]) -> str:
    """The message for weights that fit nothing, with the nearest architecture and what is another in it."""
    best = min(near, key=lambda item: item.distance + len(item.variant.beside), default=None)
    known = (
        f"no architecture of torchvision or timm has the names and shapes of these {len(shapes)} tensors "
        f"({cut(list(shapes), 3)}); "
    )
    command = "Name the network by a function that returns it: --arch file.py:callable"
    if any(_OF_TRANSFORMERS.match(name) for name in shapes):
        command = (
            f"The names are those of transformers: put the network's config.json beside the file. {command}"
        )
    if best is None:
        return f"{known}nearest: none. {command}"
    found, total = best.difference(), best.architecture.tree.count
    agreeing = total - len(found.missing) - len(found.reshaped)
    if agreeing < _ALIKE * total:
        return f"{known}nearest: none. {command}"
    title = f"nearest: {best.architecture.title}, of whose {total} tensors {agreeing} agree"
    if reason := _fit(best, shapes):
        return f"{known}{title}. Its body fits, but the head can't be rebuilt: {reason}. {command}"
    parts = [
        f"{len(names)} {what}: {cut(names, 3)}"
        for what, names in (
            ("missing from the file", found.missing),
            ("unknown to it", [*found.unknown, *best.variant.beside]),
            ("of another shape", found.reshaped),
        )
        if names
    ]
    return f"{known}{title} ({'; '.join(parts)}). {command}"
