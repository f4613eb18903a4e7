"""Values that are infinite on purpose get neither a range nor a quantizer."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_model, observe
from converter.quantize.placement import place_quantizers


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


class PaddedPool(Stem):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(torch.relu(self.conv(x)), (0, 1, 0, 1), value=-math.inf)
        return self.head(F.max_pool2d(x, 3, 1))


class MaskedAttention(Stem):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((36, 36), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        tokens = x.flatten(2)
        scores = tokens.transpose(1, 2) @ tokens
        hidden = scores.masked_fill(self.mask < 0, -math.inf)
        added = (scores + self.mask).view(-1, 1, 36, 36).squeeze(1)
        return self.head(x + (tokens @ (F.softmax(hidden, -1) + F.softmax(added, -1))).view_as(x))


@pytest.mark.slow
@pytest.mark.parametrize("network", [PaddedPool, MaskedAttention])
def test_every_activation_can_have_a_range(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    graph = graph_from_model(network(), InputSpec((3, 8, 8)))
    values = observe(graph.module, torch.randn(2, 3, 8, 8), graph.activations)[1]
    assert len(values) > 5
    assert all(value.isfinite().all() for value in values.values())
    quantized = {pair.tensor for pair in place_quantizers(graph.onnx).activations}
    assert quantized <= set(graph.activations)


@pytest.mark.slow
def test_the_pool_behind_the_padding_is_finite_again() -> None:
    graph = graph_from_model(PaddedPool(), InputSpec((3, 8, 8)))
    (pool,) = (node for node in graph.onnx.graph.node if node.op_type == "MaxPool")
    assert pool.input[0] not in graph.activations
    assert pool.output[0] in place_quantizers(graph.onnx).observed
