"""Weights in parts, put together as PyTorch's own layers compute them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from converter.load.reparametrised import as_computed


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        utils.weight_norm,
        lambda layer: utils.weight_norm(layer, dim=1),
        parametrizations.weight_norm,
        utils.spectral_norm,
        parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_the_weight_is_what_the_layer_uses(change: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(change(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 5, 5)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    state, notes = as_computed(network.state_dict())
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(x), network(x))
    assert [note.endswith(": 0.weight") for note in notes] == [True]


def test_others_stay_as_they_are() -> None:
    state = nn.Linear(3, 2).state_dict() | {"a.weight_g": torch.ones(2, 1), "b.weight_orig": torch.ones(2, 1)}
    assert as_computed(state) == (state, ())
    unfit = {"a.weight_g": torch.ones(2, 1), "a.weight_v": torch.ones(3, 4)}
    assert as_computed(unfit) == (unfit, ())
