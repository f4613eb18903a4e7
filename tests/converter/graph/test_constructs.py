"""Constructs that the ONNX exporter rewrites or computes, each in a small network, from capture to Q/DQ."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_model, observe
from converter.quantize.placement import plan_from_onnx
from converter.quantize.qdq import qdq_from_onnx
from tests.converter.reference import run_onnx


class Activations(nn.Module):
    """ELU, a hand-written h-swish, weight norm, an adaptive max pool, and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.norm = nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.elu(self.norm(self.first(x))))
        x = F.adaptive_max_pool2d(x * F.relu6(x + 3) / 6, 2)
        return self.head(x.view(x.size(0), -1))  # type: ignore[no-any-return]


class Repeated(nn.Module):
    """The same expression twice, and constants that change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.conv(x)) + torch.sigmoid(self.conv(x))
        return self.head((y * 1.0 + 0.0).mean((2, 3))) * 1.0  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Patches, attention with several heads, layer norm and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(self.block(x)[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("network", [Activations, Repeated, Transformer])
@torch.no_grad()
def test_from_capture_to_pairs(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = network().eval()
    graph, x = graph_from_model(model, InputSpec((3, 8, 8))), torch.randn(5, 3, 8, 8)
    plan = plan_from_onnx(graph.onnx)
    assert set(plan.observed) <= set(graph.activations)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(plan.weights) >= len(layers)
    amax = {name: float(v.abs().max()) for name, v in observe(graph.module, x, graph.activations)[1].items()}
    int8 = qdq_from_onnx(graph.onnx, plan, amax)
    for count in (1, 2, 5):
        expected = model(x[:count])
        torch.testing.assert_close(graph.module(x[:count]), expected, rtol=1e-4, atol=1e-5)
        for proto, tolerance in ((graph.onnx, 1e-5), (int8, 0.2)):
            (logits,) = run_onnx(proto, x[:count])
            torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=tolerance)
