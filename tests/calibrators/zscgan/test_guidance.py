"""Guidance: what a few steps change of samples, and what they leave."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.batches import TensorBatches, random_pixels
from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.batch_norm import Moments
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator, GeneratorConfig
from calibrators.zscgan.guidance import (
    Guide,
    _over_scales,
    classes_to_choose_from,
    guide_for,
    has_classes,
    nearest_classes,
)
from calibrators.zscgan.losses import pixel_loss
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import SampleQuality, sample_quality
from calibrators.zscgan.sampling import SyntheticBatches
from calibrators.zscgan.training import new_config, train_generator

OPTIONS = ZSCGANOptions(batch=16, guide_steps=10)


def samples(spec: InputSpec, count: int = 32) -> tuple[Tensor, Tensor]:
    """Inputs, and the one class that each of them may choose."""
    return random_pixels(spec, count, 0), (torch.arange(count) % 4)[:, None]


def guided(guide: Guide, x: Tensor, choices: Tensor) -> Tensor:
    return guide._inputs(guide(x, choices)[0])


def ensemble_of(spec: InputSpec, classes: int = 4, *, labelled: bool = False) -> Ensemble:
    config = GeneratorConfig(spec, classes, latent=16, width=8, labelled=labelled)
    return Ensemble([Generator(config)]).eval()


def quality(teacher: nn.Module, x: Tensor, labels: Tensor) -> SampleQuality:
    return sample_quality(teacher, TensorBatches(x, labels, 16))


def test_guided_samples_have_their_labels_and_are_nearer_to_the_statistics(
    teacher: nn.Module, spec: InputSpec
) -> None:
    x, choices = samples(spec, 64)
    x = x / 4  # far from what the teacher has seen
    guide = Guide(teacher, spec, replace(OPTIONS, guide_steps=60))
    pixels, labels = guide(x, choices)
    assert torch.equal(labels.bincount(), torch.tensor([16, 16, 16, 16]))
    before, after = quality(teacher, x, labels), quality(teacher, guide._inputs(pixels), labels)
    assert before.label_accuracy <= 45
    assert after.label_accuracy >= 60
    assert after.bn_kl < before.bn_kl / 2


def test_guided_samples_are_valid_pixels(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec)
    guide = Guide(teacher, spec, replace(OPTIONS, guide_rate=1.0))
    pixels, _ = guide(x, labels)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, x.shape)
    low, high = (torch.tensor(side).view(1, -1, 1, 1) for side in (spec.low, spec.high))
    inputs = guide._inputs(pixels)
    torch.testing.assert_close(inputs, low + pixels / 255 * (high - low))
    assert (inputs >= low - 1e-6).all()
    assert (inputs <= high + 1e-6).all()


def test_a_step_changes_pixels_by_its_rate_in_the_mean_square(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec)
    rate = 0.01
    guide = Guide(teacher, spec, replace(OPTIONS, guide_steps=1, guide_rate=rate))
    moved = (guided(guide, x, labels) - x) / guide._span
    assert moved.abs().max() > 0
    # One scale at 8x8; a rounded pixel may lie half a level further.
    assert (moved.square().mean((1, 2, 3)).sqrt() <= rate + 0.5 / 255).all()


def test_batches_are_guided_each_for_itself(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec, 40)
    guide = Guide(teacher, spec, OPTIONS)
    apart = [guide(some, wanted) for some, wanted in zip(x.split(16), labels.split(16), strict=True)]
    for together, parts in zip(guide(x, labels), zip(*apart, strict=True), strict=True):
        assert torch.equal(together, torch.cat(parts))


def test_samples_of_their_class_stay_in_the_last_step(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec, 16)
    guides = [Guide(teacher, spec, replace(OPTIONS, guide_steps=steps)) for steps in (1, 2)]
    (one, given), (two, _) = (guide(x, labels) for guide in guides)
    with torch.no_grad():
        has = teacher(guides[0]._inputs(one)).argmax(1) == given
    assert has.any()
    assert not has.all()
    assert torch.equal((one == two).flatten(1).all(1), has)


def test_a_single_sample_is_guided(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec, 1)
    guide = Guide(teacher, spec, OPTIONS)
    assert not torch.equal(guided(guide, x, labels), x)


def test_what_has_no_gradient_stays_as_it_is(teacher: nn.Module, spec: InputSpec) -> None:
    x, labels = samples(spec)
    teacher[8].bias.data.fill_(torch.nan)  # type: ignore[union-attr, operator]
    guide = Guide(teacher, spec, OPTIONS)
    torch.testing.assert_close(guided(guide, x, labels), x, rtol=0, atol=0.51 / 255 / 0.2)


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


@pytest.mark.parametrize(("found", "steps"), [(True, 1), (False, OPTIONS.guide_steps)])
def test_guidance_ends_once_a_batch_has_its_classes(
    found: bool, steps: int, teacher: nn.Module, spec: InputSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Tensor] = []
    usual = Guide._moved

    def counting(
        self: Guide, pixels: Tensor, logits: Tensor, labels: Tensor, moments: dict[str, Moments]
    ) -> Tensor:
        taken.append(labels)
        return usual(self, pixels, logits, labels, moments)

    monkeypatch.setattr(Guide, "_moved", counting)
    x, _ = samples(spec, 16)
    said = teacher(x).argmax(1)
    wanted = said if found else (said + 1) % 4
    guide = Guide(teacher, spec, replace(OPTIONS, guide_rate=1e-6))
    choices = wanted.mode().values.expand(16)[:, None] if not found else wanted[:, None]
    _, labels = guide(x, choices)
    assert len(taken) == steps
    assert all(torch.equal(labels, each) for each in taken)
    assert not found or torch.equal(labels, said)


def test_a_batch_that_ends_early_leaves_the_next_as_it_is(teacher: nn.Module, spec: InputSpec) -> None:
    x, _ = samples(spec)
    choices = teacher(x).argmax(1)
    choices[16:] = (choices[16:] + 1) % 4
    guide = Guide(teacher, spec, OPTIONS)
    together, labels = guide(x, choices[:, None])
    alone, same = guide(x[16:], choices[16:, None])
    assert torch.equal(together[16:], alone)
    assert torch.equal(labels[16:], same)


def test_a_batch_is_done_once_all_have_their_classes() -> None:
    logits, labels = torch.eye(4)[torch.arange(16) % 4], torch.arange(16) % 4
    assert has_classes(logits, labels)
    labels[2] += 1
    assert not has_classes(logits, labels)


def test_each_sample_gets_the_class_that_is_nearest() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 0.0], [0.0, 8.0, 0.0, 7.0], [0.0, 7.0, 6.0, 5.0]])
    assert nearest_classes(logits, torch.tensor([0, 1, 2, 3])).tolist() == [1, 3, 2]
    assert nearest_classes(logits, torch.tensor([3, 2, 0])).tolist() == [0, 3, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_classes_are_dealt_out_whatever_the_logits(value: float) -> None:
    logits = torch.full((5, 7), value)
    assert sorted(nearest_classes(logits, torch.arange(5)).tolist()) == list(range(5))


@pytest.mark.parametrize(("classes", "choices"), [(1000, 3), (999, 8), (20, 1)])
def test_all_classes_are_equally_often_to_choose_from(classes: int, choices: int) -> None:
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    found = classes_to_choose_from(order, order, choices)
    assert found.shape == (classes, choices)
    assert torch.equal(found.flatten().bincount(), torch.full((classes,), choices))
    assert torch.equal(classes_to_choose_from(order, order[5:9], choices), found[5:9])
    whole = found[: classes // choices]
    assert len(whole.unique()) == whole.numel()


class Silent(nn.Module):
    """1,000 logits beside a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1000)
        )
        self.body(torch.zeros(1, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


@pytest.mark.parametrize(("count", "likeliest"), [(256, True), (1000, False), (4000, False)])
def test_so_many_samples_have_different_classes(count: int, likeliest: bool, spec: InputSpec) -> None:
    torch.manual_seed(0)
    network, ensemble = Silent().eval(), ensemble_of(spec, 1000)
    guide = Guide(network, spec, replace(OPTIONS, guide_steps=1), count)
    x, labels = whole(SyntheticBatches(ensemble, 256, 16, 0, guide))
    _, asked = whole(SyntheticBatches(ensemble, 256, 16, 0))
    assert len(labels.unique()) == 256
    assert (set(labels.tolist()) != set(asked.tolist())) == likeliest
    if not likeliest:  # all classes have their turn
        assert torch.equal(labels[:16].sort().values, asked[:16].sort().values)
    again, _ = whole(SyntheticBatches(ensemble, 20, 20, 0, guide))
    assert torch.equal(again, x[:20])


@pytest.mark.parametrize(
    ("labelled", "guide_steps", "guides"), [(False, 3, True), (True, 3, False), (False, 0, False)]
)
def test_who_is_guided(
    labelled: bool, guide_steps: int, guides: bool, teacher: nn.Module, spec: InputSpec
) -> None:
    options = ZSCGANOptions(guide_steps=guide_steps)
    assert (guide_for(teacher, ensemble_of(spec, labelled=labelled), options) is not None) == guides


@pytest.mark.parametrize(
    ("classes", "steps", "guide_steps", "labelled"),
    [(1, 1, 3, True), (4, 60, 3, True), (64, 60, 3, True), (65, 60, 3, False), (65, 60, 0, True)],
)
def test_a_generator_without_time_for_the_labels_is_not_trained_to_them(
    classes: int, steps: int, guide_steps: int, labelled: bool, spec: InputSpec
) -> None:
    options = ZSCGANOptions(steps=steps, guide_steps=guide_steps)
    assert new_config(spec, classes, options).labelled == labelled


def test_the_label_loss_then_changes_no_weight(teacher: nn.Module, spec: InputSpec) -> None:
    turned = copy.deepcopy(teacher)
    for part in turned[8].parameters():  # type: ignore[index]
        part.data = part.roll(1, 0)  # other labels
    few = replace(OPTIONS, steps=3, samples_per_class=1000)
    one, other = (train_generator(network, spec, 4, few).generator for network in (teacher, turned))
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    enough = replace(few, samples_per_class=1)
    one, other = (train_generator(network, spec, 4, enough).generator for network in (teacher, turned))
    assert not all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def whole(batches: SyntheticBatches) -> tuple[Tensor, Tensor]:
    x, labels = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(labels)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    usual = Guide.__call__

    def counting(self: Guide, x: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x))
        return usual(self, x, choices)

    monkeypatch.setattr(Guide, "__call__", counting)
    return calls


def test_samples_are_guided_once_in_the_batches_of_the_training(
    teacher: nn.Module, spec: InputSpec, counted: list[int]
) -> None:
    ensemble, guide = ensemble_of(spec), Guide(teacher, spec, OPTIONS)
    x, labels = whole(SyntheticBatches(ensemble, 40, 16, 3, guide))
    assert counted == [16, 16, 16]  # the last one filled up
    for count, batch_size in ((40, 16), (40, 1), (30, 7), (40, 40)):
        again, same = whole(SyntheticBatches(ensemble, count, batch_size, 3, guide))
        assert torch.equal(again, x[:count])
        assert torch.equal(same, labels[:count])
    assert len(counted) == 3
    plain, asked = whole(SyntheticBatches(ensemble, 40, 16, 3))
    assert not torch.equal(plain, x)
    for some, others in zip(labels.split(16), asked.split(16), strict=True):  # dealt out in another order
        assert len(some) < 16 or torch.equal(some.bincount(), others.bincount())


def test_every_nth_batch_is_that_of_the_whole(teacher: nn.Module, spec: InputSpec) -> None:
    guide = Guide(teacher, spec, OPTIONS)
    batches = SyntheticBatches(ensemble_of(spec), 40, 8, 3, guide)
    expected = list(batches)[1::2]
    assert all(torch.equal(x, same) for (x, _), (same, _) in zip(batches.every(1, 2), expected, strict=True))


def test_no_more_is_kept_than_there_is_room_for(
    teacher: nn.Module, spec: InputSpec, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibrators.zscgan.guidance.MOST_KEPT", 2 * 16 * 3 * 8 * 8)
    batches = SyntheticBatches(ensemble_of(spec), 48, 16, 3, Guide(teacher, spec, OPTIONS))
    x, again = whole(batches)[0], whole(batches)[0]
    assert torch.equal(x, again)
    assert len(counted) == 3 + 1


class Viewing(nn.Module):
    """A network that channels_last breaks, so that all use it itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        first = self.network[:3](x)  # type: ignore[index]
        logits: Tensor = self.network[3:](first.view(len(x), -1).view_as(first))  # type: ignore[index]
        return logits


def test_quality_is_measured_while_samples_are_guided(teacher: nn.Module, spec: InputSpec) -> None:
    network = Viewing(teacher).eval()
    batches = SyntheticBatches(ensemble_of(spec), 48, 16, 3, Guide(network, spec, OPTIONS))
    fresh, again = sample_quality(network, batches), sample_quality(network, batches)
    assert fresh == again


@pytest.mark.parametrize("shape", [(1, 12, 20), (4, 9, 9)])
def test_any_input_is_guided(shape: tuple[int, int, int]) -> None:
    spec = InputSpec(shape, (0.5,), (0.5,)) if shape[0] == 1 else InputSpec(shape)
    network = nn.Sequential(
        nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    x, labels = whole(SyntheticBatches(ensemble_of(spec, 3), 5, 4, 0, Guide(network, spec, OPTIONS)))
    assert x.shape == (5, *shape)
    assert len(labels) == 5


def test_a_prior_needs_no_pairs() -> None:
    pixels = torch.rand(3, 2, 5, 6, dtype=torch.float64)
    mean = torch.tensor([0.4, 0.6], dtype=torch.float64)
    neighbours = pixels.diff(dim=2).square().sum() + pixels.diff(dim=3).square().sum()
    expected = (neighbours + (pixels - mean.view(1, 2, 1, 1)).square().sum() / 3) / pixels.numel()
    torch.testing.assert_close(pixel_loss(pixels, mean, 0.0, 1.0), expected)
