import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan import blocks
from calibrators.zscgan.generator import (
    ConditionalBatchNorm,
    Generator,
    GeneratorConfig,
    channels_at,
    doubling,
    stage_count,
)


def generator_for(shape: tuple[int, int, int], classes: int = 3) -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(InputSpec(shape, (0.3,), (0.25,)), classes, latent=8, width=8))


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((1, 1, 1), 1),
        ((1, 8, 8), 10),
        ((3, 32, 32), 2),
        ((3, 33, 47), 10),
        ((2, 5, 64), 4),
        ((3, 224, 224), 1000),
    ],
)
def test_samples_have_the_input_shape_and_are_valid_pixels(shape: tuple[int, int, int], classes: int) -> None:
    generator = generator_for(shape, classes)
    x = generator(100 * torch.randn(2, 8), torch.tensor([0, classes - 1]))
    assert x.shape == (2, *shape)
    low, high = torch.tensor(generator.config.spec.low), torch.tensor(generator.config.spec.high)
    assert (x.amin((0, 2, 3)) >= low - 1e-5).all()
    assert (x.amax((0, 2, 3)) <= high + 1e-5).all()


def test_samples_depend_on_the_class_and_the_latent_vector() -> None:
    generator = generator_for((3, 16, 16)).eval()
    z = torch.randn(2, 8)
    a, b = generator(z, torch.tensor([0, 0])), generator(z, torch.tensor([1, 1]))
    assert not torch.allclose(a, b)
    assert not torch.allclose(a[0], a[1])


@pytest.mark.parametrize(("size", "stages"), [(1, 0), (4, 0), (8, 1), (32, 3), (64, 4), (224, 4), (600, 4)])
def test_stages_by_size(size: int, stages: int) -> None:
    assert stage_count(size, size) == stages


def test_narrower_where_the_map_is_larger() -> None:
    assert [channels_at(height, 32) for height in (4, 14, 32, 64, 112, 224)] == [128, 128, 64, 32, 18, 16]


def test_doubling_is_upsampling_and_a_convolution() -> None:
    x, weight = torch.randn(2, 5, 6, 7, dtype=torch.float64), torch.randn(4, 5, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, doubling(weight), stride=2, padding=1), expected)


def by_autograd(norm: ConditionalBatchNorm, x: Tensor, labels: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    scale, shift = (part.weight[labels][:, :, None, None] for part in (norm.scale, norm.shift))
    return F.relu(shift + scale * (x - mean) / (variance + norm.norm.eps).sqrt())


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("shape", [(6, 8, 64, 70), (6, 5, 7, 11), (2, 24, 4, 4)])
def test_the_conditional_norm_and_its_gradients_are_those_of_float64(
    shape: tuple[int, ...], classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 15)  # several of them, the last one smaller
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(shape[1], classes)
    nn.init.uniform_(norm.scale.weight, 0.5, 2)
    nn.init.normal_(norm.shift.weight)
    exact = copy.deepcopy(norm).double()
    labels, weight = torch.arange(shape[0]) % classes, torch.randn(shape)
    x = (3 + 2 * torch.randn(shape)).to(memory_format=torch.channels_last).requires_grad_()
    wide = x.detach().double().requires_grad_()
    y, expected = norm(x, labels), by_autograd(exact, wide, labels)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    for ours, theirs in zip((x, *norm.parameters()), (wide, *exact.parameters()), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        largest = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0, atol=1e-4 * largest)
    variance, mean = torch.var_mean(wide.detach(), (0, 2, 3))
    torch.testing.assert_close(norm.norm.running_mean.double(), 0.1 * mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.norm.running_var.double(), 0.9 + 0.1 * variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_conditional_norm_in_eval_mode_uses_its_running_statistics(classes: int) -> None:
    norm = ConditionalBatchNorm(8, classes).eval()
    nn.init.normal_(norm.shift.weight)
    nn.init.uniform_(norm.norm.running_var, 0.5, 2)
    x, labels = torch.randn(4, 8, 20, 20).to(memory_format=torch.channels_last), torch.arange(4) % classes
    with torch.no_grad():
        ours = norm(x, labels)
        theirs = norm(x.contiguous(), labels)
    torch.testing.assert_close(ours, theirs)
