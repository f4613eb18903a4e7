import pytest
import torch
from torch import Tensor, nn

from calibrators.inputs import InputSpec
from converter.graph import graph_from_model
from converter.idle import drop_idle_nodes


class Ending(nn.Module):
    """A layer and what the forward does with its result."""

    def __init__(self, ending: str) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.ending = ending

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x.flatten(1))
        return {
            "mul": lambda: y * 1.0,
            "div": lambda: y / 1,
            "add": lambda: y + 0,
            "clone": y.clone,
            "dropout": lambda: nn.functional.dropout(y, 0.5, training=False),
            "twice": lambda: (y * 1.0).detach() + 0.0,
            "double": lambda: y * 2.0,
            "one more": lambda: y + 1,
            "as double": y.double,
        }[self.ending]()


@pytest.mark.parametrize("ending", ["mul", "div", "add", "clone", "dropout", "twice"])
def test_what_changes_nothing_is_dropped(ending: str) -> None:
    model = Ending(ending).eval()
    x = torch.randn(2, 1, 2, 2)
    module = torch.export.export(model, (x,)).module(check_guards=False)
    assert drop_idle_nodes(module) == (3 if ending == "twice" else 1)
    torch.testing.assert_close(module(x), model(x), rtol=0, atol=0)
    graph = graph_from_model(model, InputSpec((1, 2, 2)))
    assert [node.op_type for node in graph.onnx.graph.node][-1] == "Gemm"


class Shuffle(nn.Module):
    """A copy that a view behind it needs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().view(x.shape[0], -1)


def test_a_copy_in_another_order_stays() -> None:
    x = torch.randn(2, 3, 4, 1)
    module = torch.export.export(Shuffle(), (x,)).module(check_guards=False)
    assert drop_idle_nodes(module) == 0
    torch.testing.assert_close(module(x), Shuffle()(x), rtol=0, atol=0)


@pytest.mark.parametrize("ending", ["double", "one more", "as double"])
def test_what_changes_something_stays(ending: str) -> None:
    x = torch.randn(2, 1, 2, 2)
    module = torch.export.export(Ending(ending).eval(), (x,)).module(check_guards=False)
    assert drop_idle_nodes(module) == 0
