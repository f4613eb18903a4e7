"""How the input is normalised: what was typed, what the file or its weights say, else what the network remembers."""

from dataclasses import dataclass
from typing import Literal

from calibrators.data.input_spec import PRESETS, ChannelOrder, InputSpec, Preset, as_typed
from converter.errors import OptionsError
from converter.load.input_spec import Origin, notes_on_shape, shape_from_options, times
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
class InputChoice:
    """The input and ``source``, what says its normalisation; ``notes`` and ``warnings`` are for the user."""

    spec: InputSpec
    source: NormalisationSource
    notes: tuple[str, ...] = ()
    warnings: tuple[WarningMessage, ...] = ()


def choose_input(
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
    unfit = known is not None and _is_unfit(known, shape, estimate, choice)
    if known is None or (unfit and known.source == "assumed"):
        known, unfit = _from_network(choice, estimate), False
    told = choice.told if choice and not unfit and len(set(known.values.mean)) == 1 else None
    order = options.order or told or known.order(shape[0])
    spec = _spec(shape, known, order)
    warnings: tuple[WarningMessage, ...] = ()
    if estimate is not None and choice is not None and options.normalisation_flags:
        if unfit:
            warnings = (_contradiction(spec, options, estimate, choice),)
        elif told not in (None, order):
            warnings = (_other_order(order, estimate),)
    notes = _notes(spec, known, options, origin, estimate)
    notes = notes_on_shape(options, origin, shape) + notes + _note_of_own(spec, origin.white)
    return InputChoice(spec, known.source, notes, warnings)


@dataclass(frozen=True)
class _Known:
    """Mean and std with what says them; those that were typed are in the network's order, all others of RGB."""

    values: Preset
    source: NormalisationSource
    name: str | None = None

    def order(self, channels: int) -> ChannelOrder:
        """The usual order of the channels."""
        return self.values.order if channels == 3 else "rgb"


def _known(options: ModelOptions, origin: Origin, shape: tuple[int, int, int]) -> _Known | None:
    """Mean and std that the user, the file or the architecture says; None where none does."""
    if options.mean is not None and options.std is not None:
        return _Known(Preset(options.mean, options.std, None), "typed")
    if options.preset is not None:
        return _Known(PRESETS[options.preset], "preset", options.preset)
    if origin.white is not None:
        return _Known(Preset((0.0,), (1.0 / origin.white,), None), "graph")
    published = origin.published
    if published is not None and published.mean is not None and published.std is not None:
        values = Preset(published.mean, published.std, None, "bgr" if published.bgr else "rgb")
        return _Known(values, "assumed" if published.folder is None else "metadata", published.source)
    if origin.weights is not None and shape[0] in (1, 3):
        transforms = origin.weights.transforms()
        values = Preset(tuple(transforms.mean), tuple(transforms.std), None)
        return _Known(values, "assumed" if origin.assumed else "metadata", f"torchvision's {origin.weights}")
    return None


def _is_unfit(
    known: _Known, shape: tuple[int, int, int], estimate: NormalisationEstimate | None, choice: Choice | None
) -> bool:
    """Whether the network was clearly trained with another normalisation."""
    return estimate is not None and contradicts(estimate, _spec(shape, known, known.order(shape[0])), choice)


def _from_network(choice: Choice | None, estimate: NormalisationEstimate | None) -> _Known:
    """Mean and std that the network says; raises OptionsError where it doesn't."""
    if choice is not None:
        return _Known(choice.preset, "network", choice.name)
    hint = ""
    if is_standardised(estimate):
        hint = "; the network saw values of mean 0 and deviation 1, as after the mean and std of its training images"
    raise OptionsError(
        "the input's normalisation is unknown: type --mean and --std as in training, for example --mean "
        f"0.485,0.456,0.406 --std 0.229,0.224,0.225, or --preset {_PRESET_NAMES} (unit: pixels in [0, 1]){hint}"
    )


def _spec(shape: tuple[int, int, int], known: _Known, order: ChannelOrder) -> InputSpec:
    """The input with its channels in ``order``."""
    values = known.values
    typed = known.source == "typed"
    mean, std = (values.mean, values.std) if typed else values.for_channels(shape[0], order)
    try:
        return InputSpec(shape, mean, std, order)
    except ValueError as error:
        raise OptionsError(str(error)) from error


def _notes(
    spec: InputSpec,
    known: _Known,
    options: ModelOptions,
    origin: Origin,
    estimate: NormalisationEstimate | None,
) -> tuple[str, ...]:
    """What to say of an input that wasn't typed value by value."""
    values = f"mean {as_typed(spec.mean)}, std {as_typed(spec.std)}"
    if spec.channel_order == "bgr":
        values += ", blue first"
    if known.source == "assumed":
        size, flag = ("", "") if options.input_shape else (f"{times(spec.shape)}, ", "--input-shape, ")
        return (
            f"assumed the input of {known.name}: {size}{values}; if training differed, say so with "
            f"{flag}--mean and --std",
        )
    notes: tuple[str, ...] = ()
    if known.source == "preset":
        notes = (f"--preset {known.name}: {values} (for pixels in [0, 1])",)
    elif known.source == "metadata" and origin.published is not None:
        notes = (f"took {values} from {known.name}",)
    if estimate is None:
        return notes
    if known.source == "network":
        name = f"--preset {known.name}: " if known.name else ""
        values += " (imagenet's are nearly the same)" if known.name == "cifar10" else ""
        return (
            f"read the normalisation from the network: {_seen(estimate)}; took {name}{values} (for pixels in [0, 1]); "
            "if training differed, say so with --preset, or --mean and --std, and --channel-order",
        )
    if spec.channel_order == "bgr" and options.order is None and known.values.order == "rgb":
        notes += (f"the network takes blue first: {_seen(estimate)}; else type --channel-order rgb",)
    return notes


def _seen(estimate: NormalisationEstimate) -> str:
    """What the network's first layer remembers."""
    means = ",".join(f"{value:.3g}" for value in estimate.mean)
    return f"the first layer was trained on values of mean {means} and deviation {estimate.deviation:.3g}"


def _contradiction(
    spec: InputSpec, options: ModelOptions, estimate: NormalisationEstimate, choice: Choice
) -> WarningMessage:
    return WarningMessage(
        "normalisation-contradicted",
        f"with {options.normalisation_flags} the network gets values of {min(spec.low):.3g} to {max(spec.high):.3g}, "
        f"but {_seen(estimate)}; {choice.flags} agrees with it",
        "A wrong normalisation costs accuracy in FP32 and INT8 alike, and calibrates INT8 for pixels that the network "
        "never sees. Type the normalisation of the training; if it is the one you typed, measure with --val.",
    )


def _other_order(order: ChannelOrder, estimate: NormalisationEstimate) -> WarningMessage:
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
