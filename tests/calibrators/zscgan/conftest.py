"""A small classifier that has seen something: its batch norms hold statistics of real forward passes."""

import pytest
import torch
from torch import nn

from calibrators.data.input_spec import InputSpec


@pytest.fixture
def spec() -> InputSpec:
    return InputSpec((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture
def teacher(spec: InputSpec) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    for _ in range(50):
        model(torch.rand(32, *spec.shape))
    return model.eval().requires_grad_(False)
