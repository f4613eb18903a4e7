"""Which preset a network was trained with: first layers that have seen images normalised by each."""

from typing import Any

import pytest

from calibrators.data.input_spec import PRESETS, ChannelOrder, InputSpec
from converter.load.nearest_preset import (
    channel_order,
    choose_normalisation,
    contradicts,
    is_standardised,
)
from converter.load.normalisation import NormalisationEstimate, estimate_normalisation
from tests.converter.load.first_layers import stem

COLOUR, GREY, LARGE = (3, 32, 32), (1, 32, 32), (3, 224, 224)
GREY_PRESETS = ("imagenet", "unit", "inception", "bytes")


def estimate(mean: tuple[float, ...], deviation: float, **fields: Any) -> NormalisationEstimate:
    usual = {"r_squared": 1.0, "error": 0.0, "slope_error": 0.0, "spread": 0.05, "near": 0.95, "colour": 0.9}
    return NormalisationEstimate(mean, deviation, **(usual | fields))


def seen_by(spec: InputSpec) -> NormalisationEstimate | None:
    channels, height, width = spec.shape
    return estimate_normalisation(stem(spec), (channels, height, width))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("name", PRESETS)
def test_the_preset_is_read_from_the_network(name: str, order: ChannelOrder) -> None:
    order = "bgr" if name == "caffe" else order
    spec = InputSpec(COLOUR, *PRESETS[name].for_channels(3, order), order)
    found = seen_by(spec)
    choice = choose_normalisation(found, COLOUR)
    assert found is not None
    assert choice is not None
    assert choice.name == ("cifar10" if name == "imagenet" else name)  # nearly the same, named by the size
    told = order if name in ("unit", "inception", "bytes") else None
    assert choice.told == told
    assert choice.flags == f"--preset {choice.name}{' --channel-order bgr' if told == 'bgr' else ''}"
    assert not contradicts(found, spec, choice)


@pytest.mark.parametrize("name", GREY_PRESETS)
def test_the_preset_of_grey_images(name: str) -> None:
    spec = InputSpec(GREY, *PRESETS[name].for_channels(1))
    found = seen_by(spec)
    choice = choose_normalisation(found, GREY)
    assert found is not None
    # Grey images of nearly mean 0 and deviation 1 may have been normalised by their own: no preset is taken then.
    assert (choice and choice.name) == (None if is_standardised(found) else name)
    assert choice is None or choice.told is None
    assert not contradicts(found, spec, choice)


def test_sizes_name_what_is_nearly_the_same() -> None:
    choices = [
        choose_normalisation(estimate((0.0, 0.1, 0.2), 1.1), shape) for shape in (COLOUR, LARGE, (3, 33, 32))
    ]
    assert [choice and choice.name for choice in choices] == ["cifar10", "imagenet", "imagenet"]


@pytest.mark.parametrize(
    ("mean", "deviation", "shape", "name"),
    [  # as measured on networks that are in use
        ((111.0, 115.0, 122.0), 75.0, (3, 80, 80), "bytes"),
        ((0.39, 0.42, 0.45), 0.29, (3, 352, 352), "unit"),
        ((-0.09, -0.12, -0.16), 0.63, (3, 240, 320), "inception"),
        ((0.10, -0.15, -0.28), 0.49, (3, 112, 96), "inception"),
        ((-0.14, -0.10, -0.04), 1.19, (3, 256, 256), "imagenet"),
        ((-0.24, -0.17, -0.09), 1.2, (3, 32, 32), "cifar10"),
        ((0.13,), 0.31, (1, 28, 28), None),  # dark digits: as well -1 to 1 of bright ones
        ((0.01,), 1.0, (1, 28, 28), None),
        ((0.0, 0.0, 0.0), 0.8, (3, 224, 224), None),  # between inception and imagenet
    ],
)
def test_what_networks_say(
    mean: tuple[float, ...], deviation: float, shape: tuple[int, int, int], name: str | None
) -> None:
    choice = choose_normalisation(estimate(mean, deviation), shape)
    assert (choice and choice.name) == name


@pytest.mark.parametrize("fields", [{"spread": 0.4}, {"error": 0.4}])
def test_a_poor_fit_says_nothing(fields: dict[str, float]) -> None:
    poor = estimate((0.0, 0.1, 0.2), 1.1, **fields)
    assert choose_normalisation(poor, LARGE) is None
    assert not contradicts(poor, InputSpec(LARGE), None)
    assert choose_normalisation(None, LARGE) is None


def test_the_estimate_itself_where_no_preset_is_near() -> None:
    choice = choose_normalisation(estimate((4.5, 4.5, 4.5), 2.6), COLOUR)  # pixels of 0 to 10
    assert choice is not None
    assert choice.name is None
    assert choice.flags == "--mean 0 --std 0.1"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("imagenet", False),
        ("cifar10", False),
        ("unit", True),
        ("inception", True),
        ("bytes", True),
        ("caffe", True),
    ],
)
def test_what_contradicts_imagenet(typed: str, expected: bool) -> None:
    found = estimate((-0.1, 0.0, 0.1), 1.15)
    spec = InputSpec(LARGE, *PRESETS[typed].for_channels(3))
    assert contradicts(found, spec, choose_normalisation(found, LARGE)) is expected


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.2), (0.5, 0.3), (0.6, 0.15)])
def test_small_differences_are_the_images(mean: float, std: float) -> None:
    found = estimate((-0.1, 0.0, 0.1), 1.15)
    assert not contradicts(found, InputSpec(LARGE, (mean,), (std,)), choose_normalisation(found, LARGE))


def test_images_of_little_contrast_raise_no_alarm() -> None:
    # Satellite images of deviation 0.15, normalised as ImageNet's: -1 to 1 would be as likely.
    found = estimate((-0.4, -0.4, -0.3), 0.66)
    spec = InputSpec(LARGE, *PRESETS["imagenet"].for_channels(3))
    assert not contradicts(found, spec, choose_normalisation(found, LARGE))


@pytest.mark.parametrize(
    ("mean", "slope_error", "order"),
    [
        ((0.45, 0.42, 0.39), 0.002, "rgb"),
        ((0.39, 0.42, 0.45), 0.002, "bgr"),
        ((0.42, 0.42, 0.43), 0.002, None),  # as of text
        ((0.39, 0.42, 0.45), 0.03, None),
        ((0.40, 0.55, 0.45), 0.002, None),  # of no photographs
    ],
)
def test_order_of_the_channels(mean: tuple[float, ...], slope_error: float, order: str | None) -> None:
    assert channel_order(estimate(mean, 0.3, slope_error=slope_error)) == order
