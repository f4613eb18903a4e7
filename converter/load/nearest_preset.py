"""Which of the usual normalisations a network was trained with, by what its first layer remembers of the pixels.

Each preset says what the pixels' mean and deviation were before it. Those of photographs are known: the distance is in
standard deviations of the images that networks are trained with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from calibrators.data.input_spec import PRESETS, ChannelOrder, InputSpec, Preset, as_typed
from calibrators.data.procedural import MEAN, STD
from converter.load.normalisation import NormalisationEstimate

_MEAN_SPREAD, _STD, _STD_SPREAD = 0.12, 0.265, 0.2
"""Of the pixels of training images: how far means are from MEAN, and the deviation, augmented, and its logarithm's."""
_LARGEST_STD = 1.15
"""Of the largest deviation that values in [0, 1] of a mean can have, for the error of the estimate."""
_NEAR, _MARGIN = 9.0, 6.0
"""Largest squared distance of a preset that is taken, and by how much others have to be farther."""
_FAR, _FACTOR = 25.0, 2.0
"""Squared distance from which on no preset fits; the factor between deviations that is no matter of the images."""
_OWN = 0.08
"""Of the deviation: a mean below this is that of images that were normalised by their own mean."""
_SLOPE, _SLOPE_ERROR, _SLOPE_SIGMAS = 0.1, 0.05, 4.0
"""Least difference of red and blue that tells the order, its largest error, in deviations, and their least ratio."""
_CIFAR_SIDE = 32
"""Largest side of an image for which ``cifar10`` is the name of what is nearly ``imagenet``."""


@dataclass(frozen=True)
class Choice:
    """What the network says of its input: a normalisation, and the ``name`` it has among the presets, if any.

    ``told`` is the order of the channels, where the network tells that too.
    """

    name: str | None
    preset: Preset
    told: ChannelOrder | None

    @property
    def flags(self) -> str:
        """What to type for it."""
        flags = (
            f"--preset {self.name}"
            if self.name
            else f"--mean {as_typed(self.preset.mean)} --std {as_typed(self.preset.std)}"
        )
        return f"{flags} --channel-order bgr" if self.told == "bgr" else flags


def choose_normalisation(
    estimate: NormalisationEstimate | None, shape: tuple[int, int, int]
) -> Choice | None:
    """The preset that is clearly the nearest, or the estimate itself where none is near; None where it's not clear."""
    if estimate is None or not estimate.confident:
        return None
    distances = {name: _distance(estimate, *preset.for_channels(shape[0])) for name, preset in _kinds(shape)}
    (least, name), *others = sorted((distance, name) for name, distance in distances.items())
    if least > _FAR:
        scale = STD / estimate.deviation
        middle = MEAN - scale * _average(estimate.mean)
        own = Preset((round(middle, 4),), (float(f"{scale:.4g}"),), None)
        return Choice(None, own, channel_order(estimate))
    if least > _NEAR or (others and others[0][0] - least < _MARGIN) or _is_own(estimate, name, shape):
        return None
    alike = len(PRESETS[name].mean) == 1
    return Choice(name, PRESETS[name], channel_order(estimate) if alike else None)


def is_standardised(estimate: NormalisationEstimate | None) -> bool:
    """Whether the pixels had mean 0 and deviation 1, as after a normalisation by the images' own."""
    return (
        estimate is not None
        and estimate.confident
        and abs(sum(estimate.mean)) <= _OWN * len(estimate.mean) * estimate.deviation
        and 0.7 <= estimate.deviation <= 1.4
    )


def contradicts(estimate: NormalisationEstimate, spec: InputSpec, choice: Choice | None) -> bool:
    """Whether ``spec`` can't be what the network was trained with, where ``choice`` can.

    Only where the pixels would have a deviation that is ``_FACTOR`` times too large or too small, or none that values
    in [0, 1] can have: small differences are the images'.
    """
    if choice is None or choice.name is None:
        return False
    ours = _distance(estimate, *choice.preset.for_channels(spec.shape[0]))
    theirs = _distance(estimate, spec.mean, spec.std)
    if theirs - ours < _MARGIN:
        return False
    std = estimate.deviation * _average(spec.std)
    return math.isinf(theirs) or not 1 / _FACTOR <= std / _STD <= _FACTOR


def channel_order(estimate: NormalisationEstimate) -> ChannelOrder | None:
    """The order of the network's channels, where all were normalised alike: photographs have more red than blue.

    None where the means don't differ enough.
    """
    slope, error = estimate.slope / estimate.deviation, estimate.slope_error / estimate.deviation
    if len(estimate.mean) != 3 or abs(slope) < max(_SLOPE, _SLOPE_SIGMAS * error) or error > _SLOPE_ERROR:
        return None
    beyond = _SLOPE * estimate.deviation
    if not min(estimate.mean[::2]) - beyond <= estimate.mean[1] <= max(estimate.mean[::2]) + beyond:
        return None
    return "bgr" if slope > 0 else "rgb"


def _kinds(shape: tuple[int, int, int]) -> list[tuple[str, Preset]]:
    """The presets that differ, of those that an input of ``shape`` can have."""
    channels, *sides = shape
    standardised = "cifar10" if max(sides) <= _CIFAR_SIDE and channels == 3 else "imagenet"
    names = ("unit", "inception", "bytes", *((standardised,) if channels in (1, 3) else ()))
    return [(name, PRESETS[name]) for name in (*names, *(("caffe",) if channels == 3 else ()))]


def _is_own(estimate: NormalisationEstimate, name: str, shape: tuple[int, int, int]) -> bool:
    """Whether the images' own mean is as likely as that of the preset ``name``: of grey ones it can be any."""
    return shape[0] == 1 and name == "imagenet" and is_standardised(estimate)


def _distance(estimate: NormalisationEstimate, mean: Sequence[float], std: Sequence[float]) -> float:
    """Squared distance of the pixels before the normalisation from those of training images; infinite if impossible."""
    scaled = [value * by + shift for value, by, shift in zip(estimate.mean, std, mean, strict=True)]
    pixel, deviation = _average(scaled), estimate.deviation * _average(std)
    if not 0 < pixel < 1 or deviation > _LARGEST_STD * math.sqrt(pixel * (1 - pixel)):
        return math.inf
    return ((pixel - MEAN) / _MEAN_SPREAD) ** 2 + (math.log(deviation / _STD) / _STD_SPREAD) ** 2


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
