"""Procedural images: the same everywhere for a seed, valid pixels, and the statistics of photographs."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from calibrators.data.batches import Batches, Skipping
from calibrators.data.images import UNKNOWN
from calibrators.data.input_spec import PRESETS, InputSpec
from calibrators.data.procedural import ProceduralBatches, procedural_images

CIFAR = InputSpec((3, 32, 32), PRESETS["cifar10"].mean, PRESETS["cifar10"].std)
SMALL = InputSpec((3, 12, 16))


def pixels_of(x: Tensor, spec: InputSpec) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return x * std + mean


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Pixels of 256 images for CIFAR's normalisation."""
    return pixels_of(procedural_images(CIFAR, 256, 0), CIFAR)


def test_batches_come_out_the_same_each_time_with_unknown_labels() -> None:
    batches = ProceduralBatches(SMALL, 7, 3, 5)
    assert isinstance(batches, Batches)
    first, again = list(batches), list(batches)
    assert [len(x) for x, _ in first] == [3, 3, 1]
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(first, again, strict=True))
    assert all(set(y.tolist()) == {UNKNOWN} for _, y in first)
    assert first[0][0].dtype == torch.float32


def test_an_image_depends_on_seed_and_number_alone() -> None:
    x = torch.cat([x for x, _ in ProceduralBatches(SMALL, 7, 3, 5)])
    more = torch.cat([x for x, _ in ProceduralBatches(SMALL, 11, 4, 5)])
    assert torch.equal(x, more[:7])
    assert torch.equal(procedural_images(SMALL, 1, 5, first=6)[0], x[6])


def test_every_nth_batch_is_the_one_of_the_whole() -> None:
    batches = ProceduralBatches(SMALL, 10, 2)
    assert isinstance(batches, Skipping)
    whole = [x for x, _ in batches]
    some = [x for x, _ in batches.every(1, 2)]
    assert len(some) == 2
    assert all(torch.equal(x, y) for x, y in zip(some, whole[1::2], strict=True))


def test_no_two_images_are_the_same() -> None:
    images = itertools.chain.from_iterable(procedural_images(SMALL, 20, seed) for seed in (0, 1, 2**40))
    assert len({image.numpy().tobytes() for image in images}) == 60


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 8, 8), (1, 28, 28), (2, 1, 40), (4, 33, 64), (3, 48, 192), (3, 240, 31), (3, 640, 640)],
)
def test_pixels_are_whole_and_valid(shape: tuple[int, int, int]) -> None:
    spec = InputSpec(shape, (0.4,), (0.2,))
    x = procedural_images(spec, 1 if max(shape) > 300 else 4, 0)
    assert tuple(x.shape[1:]) == shape
    assert spec.low[0] - 1e-5 <= x.min()
    assert x.max() <= spec.high[0] + 1e-5
    levels = 255 * pixels_of(x, spec)
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert max(shape[1:]) < 2 or x.std() > 0


@pytest.mark.parametrize(("mean", "std"), [((0.2, 0.3, 0.4), (0.15, 0.2, 0.25)), (CIFAR.mean, CIFAR.std)])
def test_statistics_of_the_normalisation_are_those_of_the_pixels(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    x = procedural_images(InputSpec((3, 32, 32), mean, std), 256, 1)
    assert x.mean(dim=(0, 2, 3)).abs().max() < 0.3
    assert (x.std(dim=(0, 2, 3)) - 1).abs().max() < 0.35


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0,), (1 / 255,)), ((0.0,), (0.5,)), ((1.0, 0.0, -2.0), (1.0, 2.0, 3.0))]
)
def test_a_change_of_units_leaves_the_pixels_as_they_are(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    unit, other = InputSpec((3, 20, 20)), InputSpec((3, 20, 20), mean, std)
    expected = procedural_images(unit, 8, 0)
    torch.testing.assert_close(pixels_of(procedural_images(other, 8, 0), other), expected, atol=1e-6, rtol=0)


def test_images_differ_in_brightness_and_contrast(photographs: Tensor) -> None:
    assert 0.08 < photographs.mean(dim=(1, 2, 3)).std() < 0.17  # CIFAR-10: 0.12
    assert 0.14 < photographs.std(dim=(2, 3)).mean() < 0.24  # 0.20
    assert 0.03 < photographs.std(dim=(2, 3)).mean(dim=1).std() < 0.09  # 0.06


def test_black_and_white_occur_and_are_rare(photographs: Tensor) -> None:
    for extreme in (photographs < 0.5 / 255, photographs > 254.5 / 255):
        assert 0 < extreme.float().mean() < 0.05


def test_gradients_are_those_of_edges_and_flat_regions(photographs: Tensor) -> None:
    gradient = photographs.diff(dim=3)
    assert 0.03 < gradient.abs().mean() < 0.08  # CIFAR-10: 0.055; its kurtosis is 10, that of noise below 3
    assert 6 < (gradient**4).mean() / (gradient**2).mean() ** 2 < 25


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_neighbouring_channels_correlate_as_in_photographs(channels: int) -> None:
    x = procedural_images(InputSpec((channels, 32, 32)), 128, 0)
    r = np.corrcoef(x.transpose(0, 1).flatten(1).numpy())
    neighbours = np.diag(r, 1)
    assert ((neighbours > 0.75) & (neighbours < 0.97)).all()
    assert r[0, -1] <= neighbours.max()


def test_amplitude_falls_as_one_over_the_frequency() -> None:
    grey = procedural_images(InputSpec((1, 128, 128)), 32, 0)[:, 0].numpy()
    window = np.outer(np.hanning(128), np.hanning(128))  # else the border is an edge
    power = (np.abs(np.fft.fft2((grey - grey.mean(axis=(1, 2), keepdims=True)) * window)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    edges = np.geomspace(3 / 128, 0.4, 9)
    bands = [(frequency >= low) & (frequency < high) for low, high in itertools.pairwise(edges)]
    amplitude = [np.sqrt(power[band].mean()) for band in bands]
    slope = np.polyfit(np.log([frequency[band].mean() for band in bands]), np.log(amplitude), 1)[0]
    assert -1.7 < slope < -0.9
