import copy

import pytest
import torch
from torch import nn

from calibrators.zscgan import blocks
from calibrators.zscgan.batch_norm import (
    BatchStatistics,
    MovingMoments,
    batch_moments,
    batch_norm_layers,
    merge_moments,
    targets_from_model,
)

SHAPES = [(5, 3), (4, 3, 7), (4, 3, 6, 5), (2, 3, 2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_are_those_of_float64(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3 + 2
    mean, variance = batch_moments(x)
    dims = [d for d in range(x.dim()) if d != 1]
    theirs_variance, theirs_mean = torch.var_mean(x.double(), dims, correction=0)
    torch.testing.assert_close(mean.double(), theirs_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), theirs_variance, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_that_of_var_mean(shape: tuple[int, ...]) -> None:
    ours = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_(True)
    weights = torch.randn(2, 3, dtype=torch.float64)
    mean, variance = batch_moments(ours)
    (weights[0] @ mean + weights[1] @ variance).backward()
    variance, mean = torch.var_mean(theirs, [d for d in range(theirs.dim()) if d != 1], correction=0)
    (weights[0] @ mean + weights[1] @ variance).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_channels_last_gives_the_same() -> None:
    x = torch.randn(4, 3, 6, 5)
    for ours, theirs in zip(
        batch_moments(x.contiguous(memory_format=torch.channels_last)), batch_moments(x), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_moments_of_millions_of_values_are_those_of_float64() -> None:
    x = (3 + 2 * torch.randn(4, 8, 256, 256)).to(memory_format=torch.channels_last)
    mean, variance = batch_moments(x)
    theirs_variance, theirs_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), theirs_mean, rtol=2e-6, atol=0)
    torch.testing.assert_close(variance.double(), theirs_variance, rtol=2e-6, atol=0)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6, 8, 64, 70), (3, 5, 7, 11)])
def test_measured_together_is_as_measured_apart(
    shape: tuple[int, ...], affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1 << 15)  # several of them, the last one smaller
    layer = nn.BatchNorm2d(shape[1], affine=affine).eval()
    nn.init.uniform_(layer.running_var, 0.5, 2)
    nn.init.normal_(layer.running_mean)
    weights = torch.randn(2, shape[1]).double()

    def results(x: torch.Tensor, layer: nn.Module) -> list[torch.Tensor]:
        x.requires_grad_()
        with BatchStatistics(layer) as statistics:
            y = layer(x)
            ((mean, variance),) = statistics.moments().values()
        loss = y.square().mean() + (weights[0] * mean).sum() + (weights[1] * variance).sum()
        return [y, mean, variance, *torch.autograd.grad(loss, x)]

    x = torch.randn(shape)
    together = results(x.to(memory_format=torch.channels_last), layer)
    apart = results(x.double(), copy.deepcopy(layer).double())
    for ours, theirs in zip(together, apart, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(layer)


def test_a_batch_norm_with_more_in_its_forward_keeps_it() -> None:
    class NormAndMore(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 100

    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    layer = NormAndMore(3).eval()
    with BatchStatistics(layer) as statistics:
        assert layer(x).min() > 50
        assert list(statistics.moments()) == [""]


def test_a_constant_channel_has_no_variance() -> None:
    mean, variance = batch_moments(torch.full((4, 2, 3, 3), 5.0))
    assert mean.tolist() == [5.0, 5.0]
    assert variance.tolist() == [0.0, 0.0]


def test_hooks_see_the_inputs_and_are_removed(teacher: nn.Module) -> None:
    x = torch.rand(6, 3, 8, 8)
    with BatchStatistics(teacher) as statistics:
        teacher(x)
        moments = statistics.moments()
    assert list(moments) == ["1", "4"]
    conv = teacher.get_submodule("0")(x)
    torch.testing.assert_close(moments["1"][0], conv.mean((0, 2, 3)))
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_hooks_are_removed_after_an_error(teacher: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), BatchStatistics(teacher):
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_a_shared_layer_gives_the_moments_of_all_its_inputs() -> None:
    layer = nn.BatchNorm1d(2).eval()
    a, b = torch.randn(8, 2), torch.randn(8, 2) + 3
    with BatchStatistics(nn.ModuleList([layer])) as statistics:
        for x in (a, b):
            layer(x)
        (mean, variance) = statistics.moments()["0"]
    both = torch.cat([a, b])
    torch.testing.assert_close(mean, both.mean(0))
    torch.testing.assert_close(variance, both.var(0, correction=0))


def test_layers_without_statistics_are_left_out() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2, affine=False))
    assert list(batch_norm_layers(model)) == ["1"]
    assert list(targets_from_model(model)) == ["1"]


def test_merged_moments_by_hand() -> None:
    # {0, 2} and {4, 6}: mean 3, variance ((9 + 1 + 1 + 9) / 4) = 5
    parts = [(torch.tensor([1.0]), torch.tensor([1.0])), (torch.tensor([5.0]), torch.tensor([1.0]))]
    mean, variance = merge_moments(parts)
    assert (mean.item(), variance.item()) == (3.0, 5.0)


def test_moving_moments_of_one_batch_are_its_own() -> None:
    moving = MovingMoments(batch=16, window=256)
    moments = {"a": (torch.tensor([1.0]), torch.tensor([2.0]))}
    averages, finite = moving.update(moments)
    torch.testing.assert_close(averages["a"], moments["a"])
    assert finite


def test_moving_moments_of_two_batches_by_hand() -> None:
    # decay 1/2: weights 1/4 and 1/2, normalised to 1/3 and 2/3
    moving = MovingMoments(batch=1, window=2)
    moving.update({"a": (torch.tensor([0.0]), torch.tensor([0.0]))})
    moving.keep()
    averages, _ = moving.update({"a": (torch.tensor([3.0]), torch.tensor([0.0]))})
    mean, variance = averages["a"]
    torch.testing.assert_close(mean, torch.tensor([2.0]))
    torch.testing.assert_close(variance, torch.tensor([2.0]))


def test_moving_moments_of_layers_together_are_those_of_each_alone() -> None:
    together, alone = (
        MovingMoments(batch=1, window=3),
        {name: MovingMoments(batch=1, window=3) for name in "ab"},
    )
    for _ in range(3):
        moments = {"a": (torch.randn(2), torch.rand(2)), "b": (torch.randn(5), torch.rand(5))}
        averages, _ = together.update(moments)
        together.keep()
        for name, moving in alone.items():
            torch.testing.assert_close(
                moving.update({name: moments[name]})[0][name], averages[name], rtol=0, atol=0
            )
            moving.keep()
    again = MovingMoments(batch=1, window=3)
    again.restore(together.state())
    torch.testing.assert_close(
        again.update(moments)[0]["b"], together.update(moments)[0]["b"], rtol=0, atol=0
    )


def test_a_batch_that_is_not_kept_is_forgotten() -> None:
    moving = MovingMoments(batch=1, window=2)
    good = {"a": (torch.tensor([1.0]), torch.tensor([2.0]))}
    moving.update(good)
    moving.keep()
    for broken in ((torch.nan, 1.0), (1.0, torch.inf)):
        mean, variance = map(torch.tensor, broken)
        averages, finite = moving.update({"a": (mean[None], variance[None])})
        assert not finite
        assert not all(bool(part.isfinite().all()) for part in averages["a"])
    averages, finite = moving.update(good)
    assert finite
    assert averages["a"][0].item() == pytest.approx(1.0)
