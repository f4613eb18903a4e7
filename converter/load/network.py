"""The network that weights are of: named by the user, or recognised by the weights."""

import difflib
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from converter.errors import ArchitectureError, LoadError, OptionsError
from converter.load import architectures
from converter.load.bodies import timm_names, torchvision_names
from converter.load.bodies.build import network_from_fit
from converter.load.bodies.fit import Fit
from converter.load.bodies.index import TIMM, index
from converter.load.bodies.recognise import classes_of, fit_of, recognise
from converter.load.bodies.tree import Shape
from converter.load.bodies.uninitialised import Uninitialised
from converter.load.input_spec import Origin
from converter.load.options import ModelOptions
from converter.load.own_normalisation import OwnNormalisation, without_normalisation
from converter.load.published import Published
from converter.load.reparametrised import as_computed
from converter.load.state_dict import EXPECTED, State
from converter.load.user_module import FORMS, arguments_of, module_from_callable
from zscgan_common.warning_message import WarningMessage

_OVERRIDE = "name a function that returns the network, --arch file.py:callable"
_UNKNOWN = Origin()


@dataclass(frozen=True)
class Built:
    """A network with its weights, and what is known of its input.

    ``notes`` are what was done, ``warnings`` are doubts whether it computes what the weights were trained for.
    """

    module: nn.Module
    notes: tuple[str, ...] = ()
    origin: Origin = _UNKNOWN
    warnings: tuple[WarningMessage, ...] = ()


def network_for_state(
    state: State, arch: str | None, sha256: str, words: frozenset[str] = frozenset()
) -> Built:
    """The network that ``arch`` names, or that the weights fit, with its weights.

    Of several that the weights fit it's the one that ``words``, the texts in the file, name. Raises ArchitectureError
    where none fits, or several do.
    """
    if arch is None or ":" not in arch or arch.startswith(TIMM):
        state, joined = as_computed(state)
        state, own = without_normalisation(state)
        built = _network_of_library(state, arch, sha256, words)
        built = replace(built, notes=joined + built.notes)
        return built if own is None else _behind(own, built)
    module = _built_from_name(arch, classes_of(_shapes_of(state)))
    return Built(module, architectures.fit(module, state, arch))


def _behind(own: OwnNormalisation, built: Built) -> Built:
    """``built`` with the file's own normalisation before it."""
    origin = replace(built.origin, white=own.white)
    return replace(
        built, module=own.before(built.module), origin=origin, notes=(*built.notes, own.describe())
    )


def _network_of_library(state: State, arch: str | None, sha256: str, words: frozenset[str]) -> Built:
    """The network of torchvision or timm that ``arch`` names, or that the weights fit."""
    shapes = _shapes_of(state)
    if arch is None:
        return _network_of(recognise(shapes, words), state, sha256)
    if arch in torchvision_names.names() or (arch.startswith(TIMM) and "(" not in arch):
        entry = index().named(arch.partition(".")[0])  # timm's names end in the weights' tag
        fit = None if entry is None else fit_of(replace(entry, name=arch), shapes)
        if fit is not None:
            return _network_of(fit, state, sha256, named=True)
    elif not arch.startswith(TIMM):
        near = difflib.get_close_matches(arch, torchvision_names.names(), n=3, cutoff=0.6)
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise ArchitectureError(f"torchvision has no classifier {arch}{hint}; expected {FORMS}")
    module = _built_from_name(arch, classes_of(shapes))
    origin = _origin_of_timm(arch, module, 3) if arch.startswith(TIMM) else Origin()
    return Built(module, architectures.fit(module, state, arch), origin)


def _shapes_of(state: State) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in state.items()}


def network_from_name(options: ModelOptions) -> tuple[nn.Module, Origin]:
    """The pretrained classifier of torchvision or timm that ``options.model`` names, and what is known of its input.

    Raises LoadError for other names, and where its weights can't be fetched.
    """
    name = options.model
    of_timm = name.startswith(TIMM)
    if not of_timm and name not in torchvision_names.names():
        raise LoadError(_no_such_model(name))
    if options.arch is not None:
        raise OptionsError(
            f"{name} is a {'timm' if of_timm else 'torchvision'} name and brings its architecture; leave --arch "
            f"{options.arch} out"
        )
    if of_timm:
        module = timm_names.load_pretrained(name)
        return module, _origin_of_timm(name, module, 3)
    return _pretrained_of_torchvision(name), Origin(torchvision_names.default_weights(name))


def _pretrained_of_torchvision(name: str) -> nn.Module:
    """torchvision's classifier with its default weights; raises LoadError where these can't be fetched."""
    try:
        return torchvision_names.load_pretrained(name)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        url = torchvision_names.default_weights(name).url
        raise LoadError(
            f"the weights of {name} can't be downloaded ({reason}); fetch {url} on another machine "
            f"and put it into {folder}"
        ) from error
    except RuntimeError as error:
        raise LoadError(
            f"the weights of {name} are damaged ({error}); remove them from {torch.hub.get_dir()}"
        ) from error


def _no_such_model(name: str) -> str:
    """The message for a MODEL that is neither a file nor a name of torchvision or timm."""
    near = difflib.get_close_matches(name.lower(), torchvision_names.names(), n=3, cutoff=0.6)
    known = index().named(TIMM + name)
    if known is not None:
        return f"{name} is neither a file nor a torchvision classifier; for timm's type {TIMM}{name}"
    if "/" in name or "." in name or not near:
        return f"there is no file {name}, nor a torchvision classifier of that name; {EXPECTED}"
    return f"{name} is neither a file nor a torchvision classifier; did you mean {', '.join(near)}?"


def _built_from_name(arch: str, classes: int | None) -> nn.Module:
    """The network that ``arch`` names, which gets ``classes`` where it takes them and nothing else is typed."""
    if arch.startswith(TIMM):
        place, typed = arguments_of(arch)
        known = {} if classes is None else {"num_classes": classes}
        with Uninitialised():
            return timm_names.build(place, **{**known, **(typed or {})})
    if ":" in arch:
        return module_from_callable(arch, num_classes=classes)
    with Uninitialised():
        return torchvision_names.build(arch, classes or 1000)


def _network_of(fit: Fit, state: State, sha256: str, *, named: bool = False) -> Built:
    """The network of ``fit`` with its weights; ``named`` says that the user named it."""
    architecture = fit.architecture
    name = architecture.name
    if architecture.of_timm:
        module = network_from_fit(fit)
        origin = _origin_of_timm(name, module, 3 if fit.stem is None else fit.stem.channels)
        released = None
    else:
        released = torchvision_names.released_weights(name, sha256)
        # The released GoogLeNet and Inception weights expect the normalisation of TensorFlow.
        transform_input = released is not None
        module = network_from_fit(fit, transform_input=transform_input)
        origin = Origin(released or torchvision_names.default_weights(name), assumed=released is None)
    skipped = architectures.fit(
        module, {fit.names[key]: value for key, value in state.items() if key in fit.names}, name
    )
    said = ", which the file names" if fit.is_named else ""
    notes = () if named else (f"recognised {fit.title}{said}",)
    if fit.image_size is not None:
        origin = replace(origin, sizes=(3, fit.image_size, fit.image_size))
    if fit.stem is not None:
        origin = _origin_of_stem(fit, origin)
    doubts = (*_doubts(fit), *_doubt_of_transform(module, name, released is not None))
    return Built(module, (*notes, *skipped, *_notes(fit)), origin, tuple(map(_warning, doubts)))


def _notes(fit: Fit) -> tuple[str, ...]:
    """What of the network can't be known from its weights, one line each."""
    notes = []
    if fit.others:
        notes.append(
            f"the weights fit {', '.join(fit.others)} too, which compute something else: if they are of one of "
            f"these, type --arch {fit.others[0]}"
        )
    if fit.classes is None:
        notes.append("the file has no head: the network's outputs are the features of the body")
    if fit.head is not None and len(fit.head.layers) > 1:
        pooling = "the maximum and the mean of each channel, " if fit.pools_twice else ""
        notes.append(f"built its head by the shapes: {pooling}{fit.head.text}; else {_OVERRIDE}")
    return tuple(notes)


def _doubts(fit: Fit) -> Iterator[str]:
    """What of the network was assumed, and may well be otherwise."""
    if fit.head is not None and fit.head.activated:
        yield (
            f"between the layers of the head, {fit.head.text}, ReLU is assumed, as weights don't tell activations; for "
            f"another, {_OVERRIDE}"
        )
    if fit.pools_to_one:
        yield f"the head takes one value of each channel: the mean over the image is assumed; else {_OVERRIDE}"
    if fit.stem is not None and fit.stem.small:
        yield (
            "its first convolution is 3x3, as for CIFAR: stride 1 without a max pool behind it is assumed; else "
            f"{_OVERRIDE}"
        )


def _warning(doubt: str) -> WarningMessage:
    return WarningMessage(
        "network-assumed",
        doubt,
        "The weights fit both ways, but the outputs differ, in FP32 and INT8 alike. Compare with the original network, "
        "or measure with --val.",
    )


def _doubt_of_transform(module: nn.Module, name: str, released: bool) -> tuple[str, ...]:
    """What to say of a GoogLeNet or Inception whose weights aren't torchvision's own."""
    if released or getattr(module, "transform_input", None) is not False:
        return ()
    return (
        f"built {name} with transform_input=False; weights fine-tuned from torchvision's pretrained ones need "
        "transform_input=True: name a function that returns such a network by --arch file.py:callable",
    )


def _origin_of_timm(name: str, module: nn.Module, channels: int) -> Origin:
    """The input of timm's default weights for the network."""
    config: Mapping[str, object] = getattr(module, "pretrained_cfg", None) or {}
    shape, mean, std = (_numbers(config.get(key)) for key in ("input_size", "mean", "std"))
    sizes = None if len(shape) != 3 else (channels, int(shape[1]), int(shape[2]))
    known = channels == 3 and mean and std
    source = f"timm's {config.get('architecture', name.removeprefix(TIMM))}"
    return Origin(
        assumed=True,
        published=Published(name, sizes, mean if known else None, std if known else None, None, source),
    )


def _origin_of_stem(fit: Fit, origin: Origin) -> Origin:
    """What remains known of the input of a network with another first convolution: at most its shape."""
    assert fit.stem is not None
    shape = None
    if not fit.stem.small:
        if origin.published is not None:
            shape = origin.published.shape
        elif origin.weights is not None:
            (crop,) = set(origin.weights.transforms().crop_size)
            shape = (fit.stem.channels, crop, crop)
    name = fit.architecture.name
    return Origin(assumed=True, published=Published(name, shape, None, None, None, fit.architecture.title))


def _numbers(value: object) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else ()
