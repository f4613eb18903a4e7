"""The simulated quantizers: values by hand, and the INT8 model as ONNX Runtime runs it."""

import numpy as np
import pytest
import torch
from torch import nn

from converter.quantize.fake_quant import levels_of, rounded_to_scale, rounded_weight, simulate
from converter.quantize.qdq import qdq_from_onnx, quantized_weight
from tests.converter.networks import Residual, Shared
from tests.converter.reference import NETWORKS, graph_of, inputs_of, planned, run_onnx


def assert_same_logits(ours: torch.Tensor, theirs: np.ndarray) -> None:
    """Equal but for float32 sums in another order, which now and then carry a value over a step's middle."""
    expected = torch.from_numpy(theirs)
    error = (ours - expected).abs() / expected.std()
    assert float(error.median()) < 1e-5
    assert float(error.max()) < 0.02


def test_levels() -> None:
    assert [levels_of(bits) for bits in (8, 6, 4, 2)] == [127, 31, 7, 1]


def test_four_bits_by_hand() -> None:
    x = torch.tensor([-9.0, -8.0, -0.5, 0.5, 1.5, 2.4, 7.0, 7.6, 100.0])
    expected = torch.tensor([-8.0, -8.0, 0.0, 0.0, 2.0, 2.0, 7.0, 7.0, 7.0])  # halves to even
    assert torch.equal(rounded_to_scale(x, 1.0, 7), expected)
    assert torch.equal(rounded_to_scale(x * 0.25, 0.25, 7), expected * 0.25)


def test_a_weight_keeps_its_channels_apart() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.6], [0.7, -0.34, 0.06], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[7.0, -3.0, 1.0], [0.7, -0.3, 0.1], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rounded_weight(weight, 0, 4), expected)
    torch.testing.assert_close(rounded_weight(weight.T, 1, 4), expected.T)


def test_eight_bit_weights_are_those_of_the_model() -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    codes, scale = quantized_weight(weight.numpy(), 0)
    expected = codes.astype(np.float32) * scale[:, None, None, None]
    assert np.array_equal(rounded_weight(weight, 0, 8).numpy(), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_eight_bits_are_what_onnxruntime_runs(network: type[nn.Module]) -> None:
    graph, x = graph_of(network), inputs_of(network)
    plan, amax = planned(graph, x)
    with torch.no_grad():
        ours = simulate(graph, plan, amax, 8)(x)
    assert_same_logits(ours, run_onnx(qdq_from_onnx(graph.onnx, plan, amax), x)[0])


def test_the_graph_stays_as_it_is_and_fewer_bits_are_coarser() -> None:
    graph, x = graph_of(Residual), inputs_of(Residual)
    plan, amax = planned(graph, x)
    with torch.no_grad():
        before = graph.module(x)
        ours = simulate(graph, plan, amax, 8)(x)
        coarse = simulate(graph, plan, amax, 4)(x)
        assert torch.equal(graph.module(x), before)
    assert (coarse - before).abs().mean() > 4 * (ours - before).abs().mean()


def test_readers_of_one_weight_share_its_quantizer() -> None:
    graph, x = graph_of(Shared), inputs_of(Shared)
    plan, amax = planned(graph, x)
    readers = [weight.consumer for weight in plan.weights if weight.tensor == "conv.weight"]
    assert len(readers) == 2
    module = simulate(graph, plan, amax, 8)
    called = [node.target for node in module.graph.nodes if node.op == "call_module"]
    weights = [name for name in called if name.startswith("quantizers.weights.")]
    assert len(weights) == len(set(weights)) == len({(w.tensor, w.axis) for w in plan.weights})
