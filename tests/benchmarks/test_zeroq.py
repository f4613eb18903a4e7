"""ZeroQ's distillation."""

import math

import pytest
import torch
from torch import nn
from zeroq import EPS, INITIAL_BOUND, distilled, image_moments


def teacher() -> nn.Module:
    """Two batch norms that remember other statistics than noise has."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    network.train()
    layers[0].weight.data *= 10  # far from what noise gives
    with torch.no_grad():
        for _ in range(50):
            network(0.5 + 0.3 * torch.randn(16, 3, 8, 8))
    return network.eval().requires_grad_(False)


def distance(network: nn.Module, x: torch.Tensor) -> float:
    """Of the batch statistics of the first convolution to those that its batch norm remembers."""
    y = network[0](x)  # type: ignore[index]
    norm = network[1]  # type: ignore[index]
    mean = (y.mean((0, 2, 3)) - norm.running_mean).square().mean()
    return float(mean + (y.std((0, 2, 3)) - norm.running_var.sqrt()).square().mean())


def test_moments_by_hand() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]], [[[0.0, 0.0]], [[-4.0, 4.0]]]])
    mean, std = image_moments(x)
    assert mean.tolist() == [[2.0, 2.0], [0.0, 0.0]]
    expected = [[1.0, 0.0], [0.0, 4.0]]
    torch.testing.assert_close(std, (torch.tensor(expected) ** 2 + EPS).sqrt())


def test_the_images_take_on_the_statistics() -> None:
    network = teacher()
    start, done = distilled(network, (3, 8, 8), 8, 0, 0)
    assert done == 0
    assert start.abs().max() <= INITIAL_BOUND
    x, done = distilled(network, (3, 8, 8), 8, 40, 0)
    assert x.shape == (8, 3, 8, 8)
    assert 0 < done <= 40
    assert distance(network, x) < 0.3 * distance(network, start)


def test_it_stops_when_the_loss_is_small() -> None:
    # The loss is a sum over the images: one is sooner below five a layer than a hundred.
    few, many = (distilled(teacher(), (3, 8, 8), batch, 40, 0)[1] for batch in (1, 100))
    assert few < many < 40
    assert distilled(teacher(), (3, 8, 8), 1, 40, 0, stop=0.0)[1] == 40


def test_seeds_decide_and_no_hook_is_left() -> None:
    network = teacher()
    first, same, other = (distilled(network, (3, 8, 8), 4, 3, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert all(not module._forward_pre_hooks for module in network.modules())
    assert math.isfinite(float(first.sum()))


def test_a_network_without_batch_norm_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    with pytest.raises(ValueError, match="no batch norm"):
        distilled(network, (3, 2, 2), 1, 1, 0)
