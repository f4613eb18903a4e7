"""The architecture that weights fit, told by the names and shapes of their tensors alone.

The body has to fit exactly. Its head may be any chain of layers, under the architecture's name for it or another, or be
absent; its first convolution may take another number of channels, or be that of a network for CIFAR.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from converter.errors import ArchitectureError
from converter.load.bodies.fit import Fit, fit_from_reading
from converter.load.bodies.index import TIMM, Architecture, index
from converter.load.bodies.readings import Near, Reading, readings
from converter.load.bodies.tree import Comparison, Shape
from zscgan_common.text import cut

_OTHERS = 40
"""Tensors of head and stem in which a file and an architecture may differ that fit."""
_ALIKE = 0.3
"""The share of names with equal shapes from which on an architecture is worth naming as the nearest."""
_USUAL_HEAD = re.compile(
    r"^(?:\w+\.)?(?:fc|head|heads|classifier|last_linear|linear|logits)(?:\.(?:\d+|head|fc|linear))*\.weight$"
)
_TAG = re.compile(r"\..*$")
"""What ends timm's names: which weights they are of."""
_OF_TRANSFORMERS = re.compile(
    r"(?:resnet|regnet|vit|deit|beit|swin|dinov2|convnext\w*|efficientnet|mobilenet_v\d)"
    r"\.(?:embedder|embeddings|encoder|conv_stem)\."
)


def recognise(shapes: Mapping[str, Shape], words: frozenset[str] = frozenset()) -> Fit:
    """The one architecture of torchvision or timm whose body these tensors fit.

    Of several it's the one that ``words``, the texts beside the weights, name; else one of torchvision's comes before
    those of timm. Raises ArchitectureError for several, and with
    the nearest for none.
    """
    near: list[Near] = []
    for reading in readings(shapes):
        found = _nearest(reading, index().architectures)
        near += found[:1]
        fits = _fits(found, shapes)
        if fits:
            return _with_classes(_only(fits, words))
    raise ArchitectureError(_unrecognised(shapes, near))


def fit_of(architecture: Architecture, shapes: Mapping[str, Shape]) -> Fit | None:
    """How these tensors fit ``architecture``, or None."""
    for reading in readings(shapes):
        if fits := _fits(_nearest(reading, [architecture]), shapes):
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


def _nearest(reading: Reading, architectures: Iterable[Architecture]) -> list[Near]:
    """The architectures in the order of their distance from the file."""
    compare = Comparison()
    found = [
        Near(compare.distance(reading.tree_for(entry), entry.tree), entry, reading) for entry in architectures
    ]
    # Their order is kept among equal ones: torchvision's come first.
    return sorted(found, key=lambda near: near.distance)


def _fits(near: Iterable[Near], shapes: Mapping[str, Shape]) -> list[Fit]:
    """The architectures that fit, of which the least had to be replaced."""
    close = [item for item in near if item.distance <= _OTHERS]
    found = [fit for item in close if isinstance(fit := fit_from_reading(item, shapes), Fit)]
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


def _unrecognised(shapes: Mapping[str, Shape], near: Iterable[Near]) -> str:
    """The message for weights that fit nothing, with the nearest architecture and what is another in it."""
    best = min(near, key=lambda item: item.distance + len(item.reading.beside), default=None)
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
    if reason := fit_from_reading(best, shapes):
        return f"{known}{title}. Its body fits, but the head can't be rebuilt: {reason}. {command}"
    parts = [
        f"{len(names)} {what}: {cut(names, 3)}"
        for what, names in (
            ("missing from the file", found.missing),
            ("unknown to it", [*found.unknown, *best.reading.beside]),
            ("of another shape", found.reshaped),
        )
        if names
    ]
    return f"{known}{title} ({'; '.join(parts)}). {command}"
