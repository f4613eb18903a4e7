"""Guidance: what a few steps change of samples, and what they leave."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.batches import TensorBatches, random_pixels
from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator, GeneratorConfig
from calibrators.zscgan.guidance import Guide, _over_scales, guide_for
from calibrators.zscgan.losses import pixel_loss
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import SampleQuality, sample_quality
from calibrators.zscgan.sampling import SyntheticBatches

OPTIONS = ZSCGANOptions(batch=16, guide_steps=10)


def samples(spec: InputSpec, count: int = 32) -> tuple[Tensor, Tensor]:
    return random_pixels(spec, count, 0), torch.arange(count) % 4


def quality(teacher: nn.Module, x: Tensor, labels: Tensor) -> SampleQuality:
    return sample_quality(teacher, TensorBatches(x, labels, 16))


def test_guided_samples_have_their_labels_and_are_nearer_to_the_statistics(
    teacher: nn.Module, spec: InputSpec
) -> None:
    x, labels = samples(spec)
    x = x / 4  # far from what the teacher has seen
    guide = Guide(teacher, spec, replace(OPTIONS, guide_steps=60, guide_rate=0.1, bn_weight=5.0))
    before, after = quality(teacher, x, labels), quality(teacher, guide.inputs(guide(x, labels)), labels)
    assert before.label_accuracy <= 50
    assert after.label_accuracy >= 70
    assert after.bn_kl < before.bn_kl / 2


def test_guided_samples_are_valid_pixels(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec)
    guide = Guide(teacher, spec, replace(OPTIONS, guide_rate=1.0))
    pixels = guide(x, labels)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, x.shape)
    low, high = (torch.tensor(side).view(1, -1, 1, 1) for side in (spec.low, spec.high))
    inputs = guide.inputs(pixels)
    torch.testing.assert_close(inputs, low + pixels / 255 * (high - low))
    assert (inputs >= low - 1e-6).all()
    assert (inputs <= high + 1e-6).all()


def test_a_step_changes_no_pixel_by_more_than_its_rate(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec)
    rate = 0.01
    guide = Guide(teacher, spec, replace(OPTIONS, guide_steps=1, guide_rate=rate))
    moved = (guide.inputs(guide(x, labels)) - x) / guide._span
    assert moved.abs().max() > 0
    # One scale at 8x8; a rounded pixel may lie half a level further.
    assert (moved.square().mean((1, 2, 3)).sqrt() <= rate + 0.5 / 255).all()


def test_batches_are_guided_each_for_itself(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec, 40)
    guide = Guide(teacher, spec, OPTIONS)
    apart = [guide(some, wanted) for some, wanted in zip(x.split(16), labels.split(16), strict=True)]
    assert torch.equal(guide(x, labels), torch.cat(apart))


def test_a_single_sample_is_guided(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec, 1)
    guide = Guide(teacher, spec, OPTIONS)
    assert not torch.equal(guide.inputs(guide(x, labels)), x)


def test_what_has_no_gradient_stays_as_it_is(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec)
    teacher[8].bias.data.fill_(torch.nan)  # type: ignore[union-attr, operator]
    guide = Guide(teacher, spec, OPTIONS)
    torch.testing.assert_close(guide.inputs(guide(x, labels)), x, rtol=0, atol=0.51 / 255 / 0.2)


def test_the_teacher_and_the_gradients_mode_are_left_as_they_were(
    teacher: nn.Module, spec: InputSpec
) -> None:
    x, labels = samples(spec)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with torch.no_grad():
        Guide(teacher, spec, OPTIONS)(x, labels)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all("forward" not in vars(layer) for layer in teacher.modules())


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (33, 17)])
def test_the_gradient_is_followed_at_each_scale(size: tuple[int, int]) -> None:
    gradient = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = torch.zeros_like(gradient)
    half = [gradient]
    while min(half[-1].shape[2:]) // 2 >= 8:
        smaller = [side // 2 for side in half[-1].shape[2:]]
        half.append(F.interpolate(half[-1], size=smaller, mode="area"))
    for level in reversed(range(len(half))):
        part = half[level] / half[level].square().mean((1, 2, 3), keepdim=True).sqrt()
        finer = half[level - 1].shape[2:] if level else None
        expected = part if level == len(half) - 1 else part + expected
        if finer is not None:
            expected = F.interpolate(expected, size=finer, mode="bilinear", align_corners=False)
    torch.testing.assert_close(_over_scales(gradient), expected)


@pytest.mark.parametrize(
    ("classes", "steps", "guide_steps", "guided"),
    [(1, 1, 3, False), (4, 60, 3, False), (4, 1, 3, True), (4, 1, 0, False), (1000, 60, 3, True)],
)
def test_who_is_guided(
    classes: int, steps: int, guide_steps: int, guided: bool, teacher: nn.Module, spec: InputSpec
) -> None:
    options = ZSCGANOptions(guide_steps=guide_steps)
    assert (guide_for(teacher, spec, classes, options, steps) is not None) == guided


@pytest.fixture
def counting(teacher: nn.Module, spec: InputSpec, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    calls = []
    usual = Guide.__call__

    def counted(self: Guide, x: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(x))
        return usual(self, x, labels)

    monkeypatch.setattr(Guide, "__call__", counted)
    return lambda: len(calls)


def test_samples_are_guided_once(teacher: nn.Module, spec: InputSpec, counting: Callable[[], int]) -> None:
    ensemble = Ensemble([Generator(GeneratorConfig(spec, 4, latent=16, width=8))]).eval()
    guide = Guide(teacher, spec, OPTIONS)
    whole = SyntheticBatches(ensemble, 40, 16, 3, guide)
    first, again = list(whole), list(whole)
    assert counting() == 3
    assert all(torch.equal(x, same) for (x, _), (same, _) in zip(first, again, strict=True))
    # Fewer of the same seed begin alike, and share what was guided.
    fewer = list(SyntheticBatches(ensemble, 32, 16, 3, guide, whole.guided))
    assert counting() == 3
    assert all(torch.equal(x, same) for (x, _), (same, _) in zip(first, fewer, strict=False))
    plain, labels = zip(*SyntheticBatches(ensemble, 40, 16, 3), strict=True)
    assert torch.equal(torch.cat(labels), torch.cat([y for _, y in first]))
    assert not torch.equal(torch.cat(plain), torch.cat([x for x, _ in first]))


def test_a_prior_needs_no_pairs() -> None:
    pixels = torch.rand(3, 2, 5, 6, dtype=torch.float64)
    mean = torch.tensor([0.4, 0.6], dtype=torch.float64)
    neighbours = pixels.diff(dim=2).square().sum() + pixels.diff(dim=3).square().sum()
    expected = (neighbours + (pixels - mean.view(1, 2, 1, 1)).square().sum() / 3) / pixels.numel()
    torch.testing.assert_close(pixel_loss(pixels, mean, 0.0, 1.0), expected)
