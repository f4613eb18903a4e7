"""The normalisation that a network has among its weights."""

import pytest
import torch
from torch import Tensor, nn

from converter.load.own_normalisation import without_normalisation


def pair(mean: str, std: str, *shape: int, scale: float = 0.5) -> dict[str, Tensor]:
    return {mean: torch.full(shape, scale), std: torch.full(shape, scale / 2)}


@pytest.mark.parametrize(
    ("beside", "white"),
    [
        (pair("normalize.mean", "normalize.std", 1, 3, 1, 1), 1.0),
        (pair("mean", "std", 3), 1.0),
        (pair("mu", "sigma", 3, 1, 1), 1.0),
        (pair("pixel_mean", "pixel_std", 3, 1, 1, scale=120.0), 255.0),
        (pair("normalizer.new_mean", "normalizer.new_std", 1, 1, 1), 1.0),
    ],
)
def test_it_comes_before_the_network(beside: dict[str, Tensor], white: float) -> None:
    rest, own = without_normalisation({"conv.weight": torch.ones(4, 3, 3, 3)} | beside)
    assert set(rest) == {"conv.weight"}
    assert own is not None
    assert own.white == white
    x = torch.rand(2, own.mean.numel(), 4, 4)
    mean, std = (value.flatten()[0] for value in beside.values())
    torch.testing.assert_close(own.before(nn.Identity())(x), (x - mean) / std)


@pytest.mark.parametrize(
    "beside",
    [
        {"mean": torch.ones(3)},
        pair("mean", "std", 1, 197, 3),
        pair("mean", "std", 3, scale=0.0),
        pair("bn.running_mean", "bn.running_std", 64),
        pair("a.mean", "a.std", 3) | pair("b.mean", "b.std", 3),
        {"mean": torch.ones(3), "std": torch.ones(1)},
    ],
)
def test_what_is_none(beside: dict[str, Tensor]) -> None:
    assert without_normalisation(beside) == (beside, None)
