"""A batch of one keeps its axis, whatever the forward squeezes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_model
from tests.converter.reference import run_onnx

pytestmark = pytest.mark.slow

ENDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda x: x.squeeze(),
    "the batch": lambda x: x.flatten(1).squeeze(0),
    "with the batch": lambda x: x.squeeze((0, 2, -1)),
}


class Squeezing(nn.Module):
    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.pool, self.last = nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.last(self.pool(torch.relu(self.conv(x)))))


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_batch(ending: str) -> None:
    torch.manual_seed(0)
    network = Squeezing(ENDINGS[ending]).eval()
    graph, x = graph_from_model(network, InputSpec((3, 6, 6))), torch.randn(5, 3, 6, 6)
    expected = network(x).detach()
    graph.module(x).sum().backward()  # what fine-tuning and the sensitivities need
    for batch in (1, 2, 5):
        torch.testing.assert_close(graph.module(x[:batch]).detach(), expected[:batch], rtol=1e-4, atol=1e-5)
        (logits,) = run_onnx(graph.onnx, x[:batch])
        torch.testing.assert_close(torch.from_numpy(logits), expected[:batch], rtol=1e-4, atol=1e-5)
