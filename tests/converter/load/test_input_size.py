"""The only usual size that a network runs on, where one fits, and what is said where several or all do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from converter.errors import LoadError, OptionsError
from converter.load.input_size import sizes_that_run
from converter.load.model import load_model
from converter.load.options import ModelOptions
from tests.converter.load.test_model import saved

CODE = """
from torch import nn

def flat():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 47 * 47, 5))

def pooled():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


def flat(channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 2, 1), nn.Flatten(), nn.Linear(2 * size * size, 5))


class Remembers(nn.Module):
    """It keeps a grid of its last input, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.grid = torch.arange(x.shape[-1]) + 0 * self.conv(x)[0, 0, 0]
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (flat(3, 96), [(3, 96, 96)]),
        (flat(1, 28), [(1, 28, 28)]),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), [(1, 28, 28)]),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), [(3, 32, 32)]),
        (models.VisionTransformer(64, 8, 1, 2, 16, 16), [(3, 64, 64)]),
        (flat(3, 77), []),
        (
            nn.Sequential(nn.MaxPool2d(16, 16), nn.Flatten(), nn.Linear(3 * 18 * 18, 5)),
            [(3, 299, 299), (3, 300, 300)],
        ),
    ],
)
def test_sizes(network: nn.Module, shapes: list[tuple[int, int, int]]) -> None:
    found = sizes_that_run(network.eval())
    assert list(found.shapes) == shapes
    assert not found.any_size


@pytest.mark.parametrize(
    ("stem", "usual"),
    [
        (nn.Conv2d(3, 4, 7, stride=2), "a first convolution of 7x7 with stride 2: 3x224x224, 3x256x256"),
        (nn.Conv2d(1, 4, 3), "a first convolution of 3x3 with stride 1: 1x28x28, 1x32x32, 1x64x64"),
    ],
)
def test_any_size(stem: nn.Module, usual: str) -> None:
    found = sizes_that_run(nn.Sequential(stem, nn.AdaptiveAvgPool2d(1)))
    assert (found.any_size, found.shapes) == (True, ())
    assert usual in found.usual


def test_the_network_is_left_as_it_was() -> None:
    network = Remembers().eval()
    assert sizes_that_run(network).any_size
    assert network.grid is None
    assert network(torch.rand(1, 3, 8, 8)).shape == (1, 2)
    assert all(type(value) is Tensor for value in network.state_dict().values())


def test_a_network_that_can_not_be_copied() -> None:
    network = flat(3, 32)
    network.lock = (value for value in ())
    assert sizes_that_run(network).shapes == ()


def load(folder: Path, name: str, **options) -> object:
    (folder / "nets.py").write_text(CODE)
    scope: dict = {}
    exec(CODE, scope)
    path = saved(scope[name]().state_dict(), folder / "net.pth")
    return load_model(ModelOptions(str(path), f"{folder / 'nets.py'}:{name}", **options))


def test_the_size_is_taken_and_said(tmp_path: Path) -> None:
    teacher = load(tmp_path, "flat", preset="unit")
    assert teacher.spec.shape == (3, 96, 96)
    assert any(
        "input 3x96x96: the only usual size that the network runs on" in note for note in teacher.notes
    )
    notes = load(tmp_path, "flat", preset="unit", input_shape=(3, 95, 95)).notes
    assert notes == ("--preset unit: mean 0, std 1 (for pixels in [0, 1])",)


def test_a_size_that_fails_names_the_one_that_runs(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"fails on an input of 3x224x224: .*; type --input-shape 3x96x96"):
        load(tmp_path, "flat", preset="imagenet")


def test_any_size_names_the_usual_ones(tmp_path: Path) -> None:
    with pytest.raises(
        OptionsError, match=r"shape is unknown \(the network runs on any; usual behind .*1x28x28, 1x32x32"
    ):
        load(tmp_path, "pooled", preset="unit")
