"""The pixels' mean and deviation from the first layer, beside those of the images that the batch norm has seen."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from calibrators.data.input_spec import PRESETS, InputSpec
from converter.load.first_layer import first_layer
from converter.load.normalisation import estimate_from_layer, estimate_normalisation
from tests.converter.load.first_layers import inputs, seen, stem

SHAPE = (3, 32, 32)
SPEC = InputSpec(SHAPE, *PRESETS["imagenet"].for_channels(3))
CONVOLUTIONS = {
    "3x3": nn.Conv2d(3, 24, 3, padding=1, bias=False),
    "5x5, bias, no padding": nn.Conv2d(3, 24, 5),
    "7x7, stride 2": nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False),
    "1x1": nn.Conv2d(3, 24, 1, bias=False),
    "dilated": nn.Conv2d(3, 24, 3, dilation=2, padding=2, bias=False),
}


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("preset", ["imagenet", "bytes"])
def test_mean_and_deviation_are_those_of_the_images(conv: nn.Conv2d, preset: str) -> None:
    spec = InputSpec(SHAPE, *PRESETS[preset].for_channels(3))
    x = inputs(spec)
    found = estimate_normalisation(stem(spec, conv), SHAPE)
    assert found is not None
    assert found.confident
    deviation = float(x.std())
    assert found.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=0.1 * deviation)
    assert found.deviation == pytest.approx(deviation, rel=0.15)
    assert found.error < 0.05 * deviation


def test_a_network_that_normalises_its_pixels_is_seen_from_its_own_input() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layers(x.flip(1) * 2 - 1)
            return y

    unit = InputSpec(SHAPE)
    x = inputs(unit)
    found = estimate_normalisation(seen(Own(), unit), SHAPE)
    assert found is not None
    assert found.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=0.1 * float(x.std()))
    assert found.deviation == pytest.approx(float(x.std()), rel=0.15)


def test_dead_filters_say_nothing() -> None:
    layer = first_layer(stem(SPEC), SHAPE)
    assert layer is not None
    weight, mean, variance = layer.weight.clone(), layer.mean.clone(), layer.variance.clone()
    weight[:4], mean[:4], variance[:4] = 1e-9, 5.0, 1e-12
    found = estimate_from_layer(layer)
    assert found is not None
    with_dead = estimate_from_layer(replace(layer, weight=weight, mean=mean, variance=variance))
    assert with_dead is not None
    assert with_dead.mean == pytest.approx(found.mean, abs=0.05 * found.deviation)


def test_statistics_of_another_layer_give_no_confident_estimate() -> None:
    layer = first_layer(stem(SPEC), SHAPE)
    assert layer is not None
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    other = layer.variance[order] * torch.logspace(-2, 2, 24)
    found = estimate_from_layer(replace(layer, mean=layer.mean[order], variance=other))
    assert found is None or not found.confident


def test_no_estimate_without_enough_filters_or_numbers() -> None:
    layer = first_layer(stem(SPEC), SHAPE)
    assert layer is not None
    assert estimate_from_layer(replace(layer, variance=layer.variance * torch.nan)) is None
    assert estimate_from_layer(replace(layer, mean=layer.mean * torch.inf)) is None
    alike = layer.weight.mean(1, keepdim=True).expand(-1, 3, -1, -1)  # the channels can't be told apart
    assert estimate_from_layer(replace(layer, weight=alike)) is None
    assert estimate_normalisation(nn.Conv2d(3, 24, 3), SHAPE) is None
