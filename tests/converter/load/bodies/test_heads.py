"""Heads rebuilt from the names and shapes of their tensors."""

import pytest
import torch
from torch import nn

from converter.load.bodies.heads import NotAHeadError, head_from_shapes
from converter.load.bodies.tree import Shape


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    state = module.state_dict()
    return {
        name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")
    }


TWO_LAYERS = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5), nn.LogSoftmax(1))
FASTAI = nn.Sequential(
    *(nn.Identity(), nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 6, bias=False), nn.ReLU()),
    *(nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 5, bias=False)),
)
NORM_FIRST = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))
LINEAR_ALONE = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5))
PRELU = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 5))
NESTED = nn.Sequential(
    nn.Sequential(nn.Linear(8, 6), nn.ReLU()), nn.Sequential(nn.Dropout(), nn.Linear(6, 5))
)


@pytest.mark.parametrize(
    ("theirs", "text"),
    [
        (nn.Linear(8, 5), "Linear 8→5"),
        (nn.Sequential(nn.Dropout(), nn.Linear(8, 5)), "Linear 8→5"),
        (TWO_LAYERS[:4], "Linear 8→6, ReLU, Linear 6→5"),
        (FASTAI, "BatchNorm, Linear 8→6, ReLU, BatchNorm, Linear 6→5"),
        (NORM_FIRST, "Linear 8→6, BatchNorm, ReLU, Linear 6→5"),
        (LINEAR_ALONE, "Linear 8→6, Linear 6→5"),
        (PRELU, "LayerNorm, Linear 8→6, PReLU, Linear 6→5"),
        (NESTED, "Linear 8→6, ReLU, Linear 6→5"),
    ],
)
def test_it_computes_the_same(theirs: nn.Module, text: str) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.rand(value.shape, generator=generator) for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    shapes = shapes_of(theirs)
    head = head_from_shapes(dict(reversed(shapes.items())) if "" not in shapes else shapes)
    assert (head.text, head.inputs, head.classes) == (text, 8, 5)
    ours = head.build()
    ours.load_state_dict(state)
    x = torch.randn(4, 8, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


def test_convolutions_of_one_pixel() -> None:
    theirs = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 1)).eval()
    head = head_from_shapes(shapes_of(theirs))
    ours = head.build().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert head.spatial


def test_names_keep_the_order_of_the_file() -> None:
    head = head_from_shapes({"hidden.weight": (6, 8), "hidden.bias": (6,), "answer.weight": (5, 6)})
    assert head.text == "Linear 8→6, ReLU, Linear 6→5"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"0.weight": (6, 8), "2.weight": (5, 7)}, "0 gives 6 values and 2 takes 7"),
        ({"0.weight": (6,), "0.bias": (6,)}, "it has no Linear"),
        ({"0.weight": (6, 8, 3, 3)}, "0 has weight 6x8x3x3"),
        ({"0.weight": (6, 8), "0.bias": (5,)}, "0 has bias 5, weight 6x8"),
        ({"rnn.weight_ih": (6, 8)}, "rnn has weight_ih"),
    ],
)
def test_what_is_no_chain_is_refused(shapes: dict[str, Shape], message: str) -> None:
    with pytest.raises(NotAHeadError, match=message):
        head_from_shapes(shapes)
