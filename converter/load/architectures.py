"""torchvision's classifiers: built by name, and recognised by the names and shapes of their weights."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from converter.errors import ArchitectureError
from converter.load.state_dict import State, without_common_prefix
from converter.load.user_module import FORMS
from zscgan_common.text import cut

Shapes = dict[str, tuple[int, ...]]

# Where torchvision's classifiers keep their last layer; a later name of a family wins (VGG has .3 and .6).
_HEADS = tuple(
    f"{name}.weight"
    for name in (
        "fc",
        "heads.head",
        "head",
        *(f"classifier.{index}" for index in (6, 5, 3, 2, 1)),
        "classifier",
    )
)
# The auxiliary classifiers of GoogLeNet and Inception: they train and never run in eval mode.
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_BUFFERS = (
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
)
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


class _WeightsOnMeta(TorchFunctionMode):
    """New weights have a shape and no memory.

    ``torch.device("meta")`` would also take the values that RegNet computes its widths from.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class _Uninitialised(TorchFunctionMode):
    """New weights keep what their memory holds: drawing random ones for VGG takes 10 s."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_):
            return args[0]
        return func(*args, **kwargs or {})


@dataclass(frozen=True)
class TorchvisionMatch:
    """An architecture that weights fit: its name, classes, and the weights under torchvision's own names."""

    name: str
    classes: int
    state: State


@cache
def names() -> tuple[str, ...]:
    """Every classifier of torchvision by name, without the quantized variants."""
    return tuple(models.list_models(module=models))


def default_weights(name: str) -> Any:
    """The entry of torchvision's weights enum that ``DEFAULT`` stands for."""
    return models.get_model_weights(name).DEFAULT


def released_weights(name: str, sha256: str) -> Any | None:
    """The released weights whose file has this SHA-256, or None; their file names hold its start."""
    for weights in models.get_model_weights(name):
        digest = weights.url.rpartition("-")[2].partition(".")[0]
        if len(digest) >= 8 and sha256.startswith(digest):
            return weights
    return None


def build(name: str, classes: int = 1000, *, transform_input: bool = False) -> nn.Module:
    """A torchvision classifier whose weights are still to be filled, without auxiliary classifiers.

    ``transform_input`` counts for GoogLeNet and Inception alone.
    """
    kwargs: dict[str, Any] = {}
    if name in _WITH_AUXILIARY:
        kwargs = {"aux_logits": False, "init_weights": False, "transform_input": transform_input}
    with _Uninitialised():
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **kwargs)
    return network


def load_pretrained(name: str) -> nn.Module:
    """A torchvision classifier with its default weights, from its cache or the network."""
    network: nn.Module = models.get_model(name, weights=default_weights(name))
    if name in _WITH_AUXILIARY:
        for head in _AUXILIARY:
            setattr(network, head, None)
        network.aux_logits = False  # type: ignore[assignment]
    return network


def classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Outputs of the last layer, where ``state`` keeps it under one of torchvision's names."""
    head = next((key for key in _HEADS if key in state), None)
    return len(state[head]) if head is not None and state[head].dim() else None


def torchvision_names(state: State) -> State:
    """``state`` without auxiliary classifiers, and with DenseNet's names of before 2018 made new."""
    return {
        _OLD_DENSENET.sub(r"\1\2.", key): value
        for key, value in state.items()
        if key.partition(".")[0] not in _AUXILIARY
    }


def recognise(state: State) -> TorchvisionMatch:
    """The one torchvision classifier whose state_dict has the names and shapes of ``state``.

    Any number of classes will do. Architectures whose published parameter count agrees are tried first,
    then the families whose names are alike. Raises ArchitectureError with the nearest for none or several.
    """
    variants = [torchvision_names(state)]
    stripped = without_common_prefix(state)
    if stripped is not None:
        variants.append(torchvision_names(stripped))
    near: dict[str, tuple[float, float]] = {}
    for variant in variants:
        classes = classes_of(variant) or 1000
        shapes = _comparable(variant)
        for candidates in (_of_same_size(variant, classes), _of_like_names(shapes)):
            fits = []
            for name in candidates:
                theirs = _shapes(name, classes)
                near[name] = max(near.get(name, (0.0, 0.0)), _likeness(shapes, theirs))
                if shapes == theirs:
                    fits.append(name)
            if len(fits) > 1:
                raise ArchitectureError(
                    f"the weights fit several torchvision architectures alike: {', '.join(fits)}; say which: "
                    f"--arch {fits[0]}"
                )
            if fits:
                return TorchvisionMatch(fits[0], classes, variant)
    raise ArchitectureError(_unrecognised(state, near))


def _unrecognised(state: State, near: Mapping[str, tuple[float, float]]) -> str:
    """The message for weights of no torchvision architecture, with the three nearest."""
    best = sorted((name for name in near if any(near[name])), key=lambda name: near[name], reverse=True)[:3]
    nearest = ", ".join(
        f"{name} ({100 * near[name][1]:.0f} % of the names agree, {100 * near[name][0]:.0f} % with shapes)"
        for name in best
    )
    return (
        f"no torchvision architecture has the names and shapes of these {len(state)} tensors "
        f"({cut(list(state), 3)}); nearest: {nearest or 'none'}. Name the network: {FORMS}"
    )


def _comparable(state: Mapping[str, Tensor]) -> Shapes:
    """Names and shapes, without the counters that old checkpoints lack."""
    return {name: tuple(x.shape) for name, x in state.items() if not name.endswith("num_batches_tracked")}


@cache
def _shapes(name: str, classes: int) -> Shapes:
    """Names and shapes of a torchvision classifier's state_dict."""
    with _WeightsOnMeta():
        return _comparable(build(name, classes).state_dict())


def _likeness(ours: Shapes, theirs: Shapes) -> tuple[float, float]:
    """Shares of the names of both together that occur in both: with the same shape, and with any."""
    every = max(len(ours.keys() | theirs.keys()), 1)
    return len(ours.items() & theirs.items()) / every, len(ours.keys() & theirs.keys()) / every


def _of_same_size(state: Mapping[str, Tensor], classes: int) -> list[str]:
    """Architectures with as many parameters, by torchvision's own count for 1000 classes."""
    head = next((key for key in _HEADS if key in state), None)
    if head is None:
        return []
    bias = state.get(head.removesuffix("weight") + "bias")
    for_class = prod(state[head].shape[1:]) + (0 if bias is None else 1)
    count = sum(x.numel() for name, x in state.items() if not name.endswith(_BUFFERS))
    count += (1000 - classes) * for_class
    return [name for name in names() if default_weights(name).meta["num_params"] == count]


def _of_like_names(shapes: Shapes) -> list[str]:
    """The members of the families whose smallest member shares the most names, at most two families."""
    families: dict[str, list[str]] = {}
    for name in sorted(names(), key=lambda name: default_weights(name).meta["num_params"]):
        families.setdefault(models.get_model_builder(name).__module__, []).append(name)
    shared = {
        family: len(shapes.keys() & _shapes(members[0], 1000).keys()) for family, members in families.items()
    }
    best = sorted((family for family in families if shared[family]), key=lambda family: -shared[family])[:2]
    return [name for family in best for name in families[family]]


def fit(network: nn.Module, state: State, name: str) -> tuple[str, ...]:
    """Copy ``state`` into ``network``, and a note on tensors of ``state`` that it lacks, which are skipped.

    Names begin where most of the network's own are found with their shapes, behind a prefix that others may lack.
    Counters may be absent. Raises ArchitectureError where anything else is absent or of another shape, or where the
    network knows no more than half of the tensors.
    """
    own = network.state_dict()
    named, beside = _behind_prefix(state, own)
    wrong = [
        f"{key}: {'x'.join(map(str, value.shape)) or 'a number'} in the file, "
        f"{'x'.join(map(str, own[key].shape)) or 'a number'} in the network"
        for key, value in named.items()
        if isinstance(own.get(key), Tensor) and own[key].shape != value.shape
    ]
    # Names are compared by PyTorch, so that a layer that renames old keys is heard.
    agreeing = OrderedDict((k, v) for k, v in named.items() if k not in own or own[k].shape == v.shape)
    # Without versions MNASNet refuses and others migrate.
    agreeing._metadata = own._metadata  # type: ignore[attr-defined]
    result = network.load_state_dict(agreeing, strict=False)
    absent = [k for k in result.missing_keys if k not in named and not k.endswith("num_batches_tracked")]
    unknown = list(result.unexpected_keys)
    if absent or wrong or 2 * len(unknown) > len(named):
        parts = [
            f"{len(keys)} {what}: {cut(keys, 3)}"
            for what, keys in (
                ("missing from the file", absent),
                ("unknown to the network", unknown + beside),
                ("of another shape", wrong),
            )
            if keys
        ]
        raise ArchitectureError(
            f"the weights don't fit {name}; tensors " + "; ".join(parts) + f". Check {FORMS}"
        )
    skipped = unknown + beside
    return (
        (f"skipped what {name} lacks, {len(skipped)} of the tensors: {cut(skipped, 3)}",) if skipped else ()
    )


def _behind_prefix(state: State, own: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """``state`` from the prefix on behind which most of the network's ``own`` tensors are, and the names without it."""
    ends = [key for key, value in own.items() if isinstance(value, Tensor) and value.dim()][:5]
    prefixes = {""} | {name.removesuffix(end) for name in state for end in ends if name.endswith(f".{end}")}

    def agreeing(prefix: str) -> tuple[int, int]:
        found = (state.get(prefix + key) for key in own)
        return sum(
            mine is not None and isinstance(value, Tensor) and mine.shape == value.shape
            for mine, value in zip(found, own.values(), strict=True)
        ), -len(prefix)

    best = max(prefixes, key=agreeing)
    named = {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}
    return named, [name for name in state if not name.startswith(best)]
