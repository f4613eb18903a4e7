"""What computes the outputs of a network."""

import pytest
import torch
import torch.nn.functional as F
from onnx import parser
from torch import Tensor, nn

from converter.load.ends import ends_of_module, ends_of_onnx, orders

X = torch.rand(2, 3, 4, 4)


def test_the_end_of_an_onnx_output_is_behind_what_changes_its_shape_alone() -> None:
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[N, 3, 4, 4] x) => (float[N, 3] a, float[N, 4, 4, 3] b, int64[N, 4, 4] c, float[N, 3, 4, 4] d)
        {
            p = GlobalAveragePool(x)
            s = Sigmoid(p)
            a = Flatten(s)
            r = Relu(x)
            t = Transpose<perm=[0, 2, 3, 1]>(r)
            b = Identity(t)
            m = ArgMax<axis=1, keepdims=0>(x)
            c = Cast<to=7>(m)
            d = Identity(x)
        }"""
    )
    assert ends_of_onnx(model) == {"a": "Sigmoid", "b": "Relu", "c": "ArgMax"}


class Ends(nn.Module):
    """A linear layer, then what is given."""

    def __init__(self, *ends: nn.Module) -> None:
        super().__init__()
        self.unused, self.fc, self.ends = nn.Tanh(), nn.Linear(3, 4), nn.Sequential(*ends)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.ends(self.fc(x.mean((2, 3))))
        return result


@pytest.mark.parametrize(
    ("ends", "name"),
    [
        ((), "linear"),
        ((nn.Softmax(1),), "softmax"),
        ((nn.BatchNorm1d(4),), "batch_norm"),
        ((nn.ReLU(inplace=True), nn.Unflatten(1, (4, 1, 1)), nn.MaxPool2d(1)), "max_pool2d"),
        ((nn.Sigmoid(), nn.Dropout(), nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Identity()), "sigmoid"),
    ],
)
def test_the_end_of_a_module_is_that_of_its_last_layer(ends: tuple[nn.Module, ...], name: str) -> None:
    assert ends_of_module(Ends(*ends).eval(), X) in ({"logits": name}, {"output": name})


class Written(nn.Module):
    """Ends that its own forward computes, behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.fc(x.mean((2, 3)))
        part = y.sigmoid()
        part[:, :2] = 3.0
        return {
            "labels": torch.sigmoid(y)[None].squeeze(0).contiguous().float(),
            "relu": F.relu_(self.fc(x.mean((2, 3)))),
            "normed": F.normalize(y).T.T,
            "part": part,
            "left": y.clone(),
            "best": y.max(dim=1).values,
            "given": x,
        }


def test_what_the_forward_computes_itself_is_an_end_too() -> None:
    assert ends_of_module(Written(), X) == {
        "labels": "getitem",
        "relu": "relu",
        "normed": "normalize",
        "part": "setitem",
        "left": "linear",
        "best": "max",
    }


class Best(nn.Module):
    """The two best of some scores, as numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        best, which = x.flatten(1).topk(2)
        return best, which.float()


def test_what_orders_is_seen() -> None:
    assert orders(Best(), X)
    assert not orders(Written(), X)
