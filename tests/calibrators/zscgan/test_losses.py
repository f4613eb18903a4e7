import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.batch_norm import Target
from calibrators.zscgan.generator import mean_pixel
from calibrators.zscgan.losses import batch_norm_loss, gaussian_kl, label_loss, pixel_loss


def one(value: float) -> torch.Tensor:
    return torch.tensor([value])


def test_kl_is_that_of_torch_distributions() -> None:
    mean, variance = torch.randn(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64) + 0.1
    target = Target(torch.randn(9, dtype=torch.float64), torch.rand(9, dtype=torch.float64) + 0.1, 0.0)
    theirs = kl_divergence(Normal(mean, variance.sqrt()), Normal(target.mean, target.variance.sqrt()))
    torch.testing.assert_close(gaussian_kl((mean, variance), target), theirs)


def test_kl_of_equal_statistics_is_zero() -> None:
    assert gaussian_kl((one(3.0), one(2.0)), Target(one(3.0), one(2.0), 1e-5)).item() == 0.0


def test_kl_by_hand() -> None:
    # means one standard deviation apart: 1/2
    assert gaussian_kl((one(1.0), one(1.0)), Target(one(0.0), one(1.0), 0.0)).item() == pytest.approx(0.5)


@pytest.mark.parametrize("variance", [0.0, 1e-26, 1e-12])
def test_a_vanishing_variance_stays_finite(variance: float) -> None:
    moments = (torch.zeros(1, requires_grad=True), torch.full((1,), variance, requires_grad=True))
    loss = gaussian_kl(moments, Target(one(0.0), one(1e-26), 1e-5)).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(part.grad is not None and part.grad.isfinite().all() for part in moments)


def test_the_loss_is_the_mean_of_layer_means() -> None:
    targets = {"a": Target(torch.zeros(2), torch.ones(2), 0.0), "b": Target(one(0.0), one(1.0), 0.0)}
    moments = {"a": (torch.tensor([1.0, 0.0]), torch.ones(2)), "b": (one(2.0), one(1.0))}
    # layer a: (0.5 + 0) / 2; layer b: 2
    assert batch_norm_loss(moments, targets).item() == pytest.approx((0.25 + 2.0) / 2)


def test_each_layer_has_its_own_floor() -> None:
    moments = {"a": (one(1.0), one(0.0)), "b": (one(1.0), one(3.0))}
    targets = {"a": Target(one(0.0), one(0.0), 0.5), "b": Target(one(0.0), one(3.0), 1.0)}
    # a: 1 / 0.5 / 2; b: 1 / 4 / 2
    assert batch_norm_loss(moments, targets).item() == pytest.approx((1.0 + 0.125) / 2)


def test_label_loss_is_zero_at_the_soft_labels() -> None:
    soft = torch.full((1, 4), 0.1 / 4)
    soft[0, 2] += 0.9
    assert label_loss(soft.log(), torch.tensor([2]), 0.1).item() == pytest.approx(0.0, abs=1e-6)


def test_label_loss_without_smoothing_is_cross_entropy() -> None:
    logits, labels = torch.randn(5, 7), torch.arange(5)
    torch.testing.assert_close(label_loss(logits, labels, 0.0), F.cross_entropy(logits, labels))


def test_overconfidence_costs() -> None:
    labels = torch.tensor([0])
    sure, surer = torch.tensor([[5.0, 0.0]]), torch.tensor([[50.0, 0.0]])
    assert label_loss(surer, labels, 0.1) > label_loss(sure, labels, 0.1)


def test_one_class_has_no_label_loss() -> None:
    assert label_loss(torch.randn(3, 1), torch.zeros(3, dtype=torch.long), 0.1).item() == pytest.approx(0.0)


def image_prior(image: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return pixel_loss(image.repeat(2, 1, 1, 1), mean, 0.0, 1.0)


def by_autograd(pixels: torch.Tensor, mean: torch.Tensor, variety: float, prior: float) -> torch.Tensor:
    apart = (pixels[::2] - pixels[1::2]).abs().mean((1, 2, 3))
    rough = (pixels.diff(dim=2).square().sum() + pixels.diff(dim=3).square().sum()) / pixels.numel()
    glare = (pixels - mean[:, None, None]).square().mean() / 3
    return -variety * torch.log(apart + 1e-4).mean() + prior * (rough + glare)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(4, 1, 1, 5), (6, 3, 9, 1), (10, 3, 120, 90), (64, 3, 32, 32)])
def test_pixel_loss_and_its_gradient_are_those_of_float64(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    pixels, mean = torch.rand(shape).to(memory_format=layout).requires_grad_(), torch.rand(shape[1])
    ours = 2 * pixel_loss(pixels, mean, 0.5, 15.0)
    exact = pixels.detach().double().requires_grad_()
    theirs = 2 * by_autograd(exact, mean.double(), 0.5, 15.0)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    (gradient,), (expected,) = torch.autograd.grad(ours, pixels), torch.autograd.grad(theirs, exact)
    largest = float(expected.abs().max())
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-5 * largest)


def test_a_pair_of_one_picture_is_pushed_by_nothing_but_the_prior() -> None:
    pixels = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    loss = pixel_loss(pixels, torch.full((3,), 0.3), 0.5, 15.0)
    assert loss.item() == pytest.approx(-0.5 * math.log(1e-4))
    (gradient,) = torch.autograd.grad(loss, pixels)
    assert not gradient.any()


def test_image_prior_by_hand() -> None:
    # rows of 0.8 and 0.2: one pair of neighbours of the two in each column, 0.6 apart, over four pixels
    image = torch.tensor([[0.8, 0.8], [0.2, 0.2]]).view(1, 1, 2, 2)
    prior = image_prior(image, one(0.4))
    assert prior.item() == pytest.approx(2 * 0.36 / 4 + (0.16 + 0.04) / 2 / 3)
    torch.testing.assert_close(image_prior(image.expand(3, 2, 2, 2), torch.full((2,), 0.4)), prior)
    torch.testing.assert_close(image_prior(image.mT, one(0.4)), prior)


def test_the_mean_has_no_prior_and_one_pixel_a_finite_one() -> None:
    mean = torch.tensor([0.1, 0.5, 0.7])
    assert image_prior(mean[:, None, None].expand(2, 3, 4, 5), mean).item() == 0.0
    assert image_prior(torch.full((1, 1, 1, 1), 0.8), one(0.5)).item() == pytest.approx(0.03)


def test_smooth_images_have_the_smaller_prior() -> None:
    noise = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    smooth = F.avg_pool2d(noise, 3, stride=1, padding=1)
    smooth *= noise.std() / smooth.std()
    assert image_prior(smooth, torch.zeros(3)) < image_prior(noise, torch.zeros(3))


@pytest.mark.parametrize(("mean", "pixel"), [((0.1,), 0.1), ((0.0, 0.0, 0.0), 0.5), ((0.0, 0.3, 0.6), 0.3)])
def test_the_mean_pixel_is_that_of_the_normalisation(mean: tuple[float, ...], pixel: float) -> None:
    assert mean_pixel(InputSpec((3, 2, 2), mean)).tolist()[1] == pytest.approx(pixel)
