"""The network's input: from the user's options, the file, the training of torchvision's weights, or the network."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from calibrators.data.input_spec import PRESETS, ChannelOrder, InputSpec, as_typed
from converter.errors import LoadError, OptionsError
from converter.load.nearest_preset import (
    Choice,
    choose_normalisation,
    contradicts,
    is_standardised,
)
from converter.load.normalisation import NormalisationEstimate
from converter.load.options import ModelOptions
from zscgan_common.warning_message import WarningMessage

NormalisationSource = Literal["typed", "preset", "graph", "metadata", "network", "assumed"]
"""Flags, ``--preset``, constants in the graph, what comes with the weights, the first layer, or the architecture."""

_PRESET_NAMES = "|".join(PRESETS)


@dataclass(frozen=True)
class Origin:
    """What is known of the input besides the options.

    ``weights`` are the torchvision weights (an entry of its enum) whose preprocessing applies; ``assumed``
    says that it's a guess from the architecture. ``sizes`` are (channels, height, width) as the file fixed
    them, -1 where it leaves one open. ``white`` is the value of a white pixel, where the network normalises its own
    input and black is 0.
    """

    weights: Any | None = None
    assumed: bool = False
    sizes: tuple[int, ...] = (-1, -1, -1)
    white: float | None = None


def shape_from_options(options: ModelOptions, origin: Origin) -> tuple[int, int, int]:
    """The flag's shape, else the file's fixed one, the preset's, or the crop of torchvision's weights.

    Raises OptionsError where none is known, LoadError where the flag contradicts the file.
    """
    sizes = origin.sizes
    if options.input_shape is not None:
        if any(fixed not in (-1, given) for fixed, given in zip(sizes, options.input_shape, strict=True)):
            raise LoadError(
                f"the file was exported for inputs of {_times(sizes)}, got --input-shape "
                f"{_times(options.input_shape)}; leave the flag out"
            )
        return options.input_shape
    if min(sizes) > 0:
        return (sizes[0], sizes[1], sizes[2])
    preset = None if options.preset is None else PRESETS[options.preset].shape
    if preset is not None:
        return preset
    if origin.weights is not None:
        (crop,) = set(origin.weights.transforms().crop_size)
        return (3, crop, crop)
    raise OptionsError(
        "the input's shape is unknown: type --input-shape, for example --input-shape 3x32x32, or a --preset "
        f"that has one ({'|'.join(name for name, entry in PRESETS.items() if entry.shape)})"
    )


@dataclass(frozen=True)
class InputChoice:
    """The input and ``source``, what says its normalisation; ``notes`` and ``warnings`` are for the user."""

    spec: InputSpec
    source: NormalisationSource
    notes: tuple[str, ...] = ()
    warnings: tuple[WarningMessage, ...] = ()


def spec_from_options(
    options: ModelOptions, origin: Origin, estimate: NormalisationEstimate | None = None
) -> InputChoice:
    """Shape and normalisation of the input.

    Flags come before the preset, the preset before what the network does itself and before the preprocessing of
    released weights; then comes the ``estimate`` from the network's first layer, and what is usual for its
    architecture. Raises OptionsError where nothing says it: a wrong normalisation would quietly cost accuracy.
    """
    shape = shape_from_options(options, origin)
    choice = choose_normalisation(estimate, shape)
    known = _known(options, origin, shape)
    if known is not None:
        mean, std, source = known
        unfit = estimate is not None and contradicts(estimate, _spec(shape, mean, std), choice)
    if known is None or (source == "assumed" and unfit):
        mean, std, source = _from_network(choice, estimate)
        unfit = False
    told = choice.order if choice and choice.told and not unfit and len(set(mean)) == 1 else None
    order = options.channel_order or (_usual_order(options, choice, source) if told is None else told)
    chosen = InputChoice(_spec(shape, mean, std, order), source)
    notes, warnings = _notes(chosen, options, origin, estimate), []
    if estimate is not None and choice is not None and options.normalisation_flags:
        if unfit:
            warnings.append(_contradiction(chosen, options, estimate, choice))
        elif told not in (None, order):
            warnings.append(_other_order(chosen, estimate))
    return replace(chosen, notes=notes + _note_of_own(chosen.spec, origin.white), warnings=tuple(warnings))


def _known(
    options: ModelOptions, origin: Origin, shape: tuple[int, int, int]
) -> tuple[tuple[float, ...], tuple[float, ...], NormalisationSource] | None:
    """Mean and std that the user, the file or the architecture says, and which of them does."""
    if options.mean is not None and options.std is not None:
        return options.mean, options.std, "typed"
    if options.preset is not None:
        return *PRESETS[options.preset].for_channels(shape[0], options.channel_order), "preset"
    if origin.white is not None:
        return (0.0,), (1.0 / origin.white,), "graph"
    if origin.weights is not None:
        transforms = origin.weights.transforms()
        return tuple(transforms.mean), tuple(transforms.std), "assumed" if origin.assumed else "metadata"
    return None


def _from_network(
    choice: Choice | None, estimate: NormalisationEstimate | None
) -> tuple[tuple[float, ...], tuple[float, ...], NormalisationSource]:
    """Mean and std that the network says; raises OptionsError where it doesn't."""
    if choice is not None:
        return choice.mean, choice.std, "network"
    hint = ""
    if is_standardised(estimate):
        hint = "; the network saw pixels of mean 0 and deviation 1, as after the mean and std of its training images"
    raise OptionsError(
        "the input's normalisation is unknown: type --mean and --std as in training, for example --mean "
        f"0.485,0.456,0.406 --std 0.229,0.224,0.225, or --preset {_PRESET_NAMES} (unit: pixels in [0, 1]){hint}"
    )


def _usual_order(options: ModelOptions, choice: Choice | None, source: NormalisationSource) -> ChannelOrder:
    """The order of the channels where nothing tells it."""
    if source == "preset" and options.preset is not None:
        return PRESETS[options.preset].order
    return choice.order if choice is not None and source == "network" else "rgb"


def _spec(
    shape: tuple[int, int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    order: ChannelOrder = "rgb",
) -> InputSpec:
    try:
        return InputSpec(shape, mean, std, order)
    except ValueError as error:
        raise OptionsError(str(error)) from error


def _notes(
    chosen: InputChoice, options: ModelOptions, origin: Origin, estimate: NormalisationEstimate | None
) -> tuple[str, ...]:
    """What to say of an input that wasn't typed value by value."""
    spec, typed = chosen.spec, options.input_shape is not None
    values = f"mean {as_typed(spec.mean)}, std {as_typed(spec.std)}"
    if spec.channel_order == "bgr":
        values += ", blue first"
    if chosen.source == "preset":
        return (f"--preset {options.preset}: {values} (for pixels in [0, 1])",)
    if chosen.source == "assumed":
        return (
            f"assumed the input of torchvision's {origin.weights}: {'' if typed else f'{_times(spec.shape)}, '}"
            f"{values}; if training differed, say so with {'' if typed else '--input-shape, '}--mean and --std",
        )
    if chosen.source == "network" and estimate is not None:
        choice = choose_normalisation(estimate, spec.shape)
        assert choice is not None
        name = f"--preset {choice.preset}: " if choice.preset else ""
        return (
            f"read the normalisation from the network, {_seen(estimate)}; took {name}{values} (for pixels in [0, 1]); "
            "if training differed, say so with --preset, or --mean and --std, and --channel-order",
        )
    if spec.channel_order == "bgr" and options.channel_order is None and estimate is not None:
        return (
            f"the network takes blue first, as {_seen(estimate)}; if training differed, type --channel-order rgb",
        )
    return ()


def _seen(estimate: NormalisationEstimate) -> str:
    """What the network's first layer remembers."""
    means = ",".join(f"{value:.3g}" for value in estimate.mean)
    return f"its first layer saw pixels of mean {means} and deviation {estimate.deviation:.3g}"


def _contradiction(
    chosen: InputChoice, options: ModelOptions, estimate: NormalisationEstimate, choice: Choice
) -> WarningMessage:
    low, high = min(chosen.spec.low), max(chosen.spec.high)
    return WarningMessage(
        "normalisation-contradicted",
        f"{options.normalisation_flags} gives the network values of {low:.3g} to {high:.3g}, but {_seen(estimate)}; "
        f"{choice.flags} agrees with it",
        "A wrong normalisation costs accuracy in FP32 and INT8 alike, and calibrates INT8 for pixels that the network "
        "never sees. Type the normalisation of the training; if it is the one you typed, measure with --val.",
    )


def _other_order(chosen: InputChoice, estimate: NormalisationEstimate) -> WarningMessage:
    order = chosen.spec.channel_order
    other = "rgb" if order == "bgr" else "bgr"
    return WarningMessage(
        "channel-order-contradicted",
        f"--channel-order {order} contradicts the network: {_seen(estimate)}, and images have more red than blue; "
        f"--channel-order {other} agrees with it",
        "Red and blue are exchanged, unless most training images are blue. Measure both orders with --val.",
    )


def _note_of_own(spec: InputSpec, white: float | None) -> tuple[str, ...]:
    """What to say of a network that normalises its own input."""
    if white is None:
        return ()
    if max(map(abs, spec.low)) == 0 and all(abs(high - white) <= 1e-3 * white for high in spec.high):
        return (
            f"the graph normalises its own input: pixels are 0 to {white:g} (--mean and --std say otherwise)",
        )
    return (
        f"the graph normalises its own input, for pixels of 0 to {white:g}, and what was typed comes before that: it "
        f"gets values of {min(spec.low):g} to {max(spec.high):g}",
    )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) if size > 0 else "?" for size in shape)
