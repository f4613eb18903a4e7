"""The one-pass estimate against values by hand, against networks with one quantizer, and its parts."""

import math

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import FoldedGraph, graph_from_model
from converter.quantize.fake_quant import simulate
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.quantize.quantized_inputs import Part, parts_of, plan_of_parts
from converter.trust.sensitivity import Sensitivity, batch_axes, sensitivity_from_graph
from converter.trust.task.base import Task
from converter.trust.task.classes import Classes
from tests.converter import networks
from tests.converter.reference import NETWORKS, graph_of, inputs_of, planned

FIVE = Classes(5)


def estimated(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: dict[str, float],
    x: Tensor,
    seed: int = 0,
    task: Task = FIVE,
) -> Sensitivity:
    return sensitivity_from_graph(graph, plan, amax, task, x, batch_size=16, seed=seed)


@torch.no_grad()
def one_at_a_time(
    graph: FoldedGraph, plan: QuantizationPlan, amax: dict[str, float], x: Tensor, parts: list[Part]
) -> float:
    """KL(FP32 || the network with ``parts`` alone quantized), by running both."""
    quantized = simulate(graph, plan_of_parts(plan, parts), amax, 8)
    p, q = (module(x).double().log_softmax(1) for module in (graph.module, quantized))
    return float(nn.functional.kl_div(q, p, reduction="batchmean", log_target=True))


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


class Linear(nn.Module):
    """Two pixels to some logits."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.fc = nn.Linear(2, len(weight))
        self.fc.weight.data = torch.tensor(weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("weight", [[[1.0, 0.5], [-0.3, 0.7]], [[1.0, 0.503]]])
def test_linear_network_by_hand(weight: list[list[float]]) -> None:
    """One logit stands for two of which the first is 0; of two classes, one draw is exact."""
    graph = graph_from_model(Linear(weight), InputSpec((1, 1, 2)))
    plan = place_quantizers(graph.onnx)
    (name,) = plan.observed
    x = torch.tensor([[[[0.304, 1.0]]], [[[-0.777, 0.123]]]])
    found = estimated(graph, plan, {name: 1.27}, x, task=Classes(len(weight)))  # a scale of 0.01
    w = torch.tensor([[0.0, 0.0], *weight] if len(weight) == 1 else weight)
    difference = w[1] - w[0]
    p = (x.flatten(1) @ w.T).softmax(1)[:, 0]
    activation, kernel = found.parts
    assert (activation.kind, activation.consumer, kernel.kind, kernel.tensor) == (
        "activation", "logits", "weight", "fc.weight",
    )  # fmt: skip
    error = (x / 0.01).round() * 0.01 - x
    logit_error = (error.flatten(1) @ difference).double()
    expected = 0.5 * (p * (1 - p) * logit_error**2).mean()
    assert found.kl([activation]) == pytest.approx(float(expected), rel=1e-4)
    scale = torch.tensor(weight).abs().amax(1, keepdim=True) / 127
    weight_error = (torch.tensor(weight) / scale).round() * scale - torch.tensor(weight)
    shift = weight_error[-1] - (weight_error[0] if len(weight) > 1 else 0)
    logit_error = (x.flatten(1) @ shift).double()
    expected = 0.5 * (p * (1 - p) * logit_error**2).mean()
    assert found.kl([kernel]) == pytest.approx(float(expected), rel=1e-3)
    assert found.part_sqnr[0] == pytest.approx(
        10 * math.log10(float(x.square().sum() / error.square().sum())), abs=0.01
    )
    assert found.part_sqnr[1] == pytest.approx(
        10 * math.log10(float(torch.tensor(weight).square().sum() / weight_error.square().sum())), abs=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_estimate_and_ranks_follow_the_network_with_that_part_alone(network: type[nn.Module]) -> None:
    graph, x = graph_of(network), inputs_of(network, batch=64)
    plan, amax = planned(graph, x)
    draws = [estimated(graph, plan, amax, x, seed) for seed in range(8)]
    parts = draws[0].parts
    truth = [one_at_a_time(graph, plan, amax, x, [part]) for part in parts]
    estimates = [float(np.mean([found.kl([part]) for found in draws])) for part in parts]
    assert parts == parts_of(plan)
    # Each is a mean over 8 * 64 draws of a value whose standard deviation is up to some times its mean.
    np.testing.assert_allclose(estimates, truth, rtol=0.35)
    assert np.corrcoef(ranks(estimates), ranks(truth))[0, 1] > 0.9
    together = float(np.mean([found.kl(parts) for found in draws]))
    # Behind a rounded tensor other values lie between two steps than the estimate has it.
    assert together == pytest.approx(one_at_a_time(graph, plan, amax, x, list(parts)), rel=0.5)


def test_sets_add_up_input_by_input_and_unknown_parts_count_for_nothing() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual)
    plan, amax = planned(graph, x)
    found = estimated(graph, plan, amax, x)
    some = found.parts[2:5]
    np.testing.assert_allclose(found.effect(some), sum(found.effect([part]) for part in some))
    stranger = Part("weight", "other", "conv2d", axis=0)
    assert found.kl([*some, stranger, some[0]]) == found.kl(some)
    assert found.kl([]) == 0


def test_same_seed_gives_the_same_and_the_graph_is_left_alone() -> None:
    graph, x = graph_of(networks.Squeeze), inputs_of(networks.Squeeze)
    plan, amax = planned(graph, x)
    before = {name: value.clone() for name, value in graph.module.state_dict().items()}
    first, again, other = (estimated(graph, plan, amax, x, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.effects, again.effects)
    assert not np.array_equal(first.effects, other.effects)
    assert first.part_sqnr == other.part_sqnr
    assert all(parameter.grad is None for parameter in graph.module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in graph.module.state_dict().items())


def test_a_range_that_clips_costs_more() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual)
    plan, amax = planned(graph, x)
    (relu,) = (part for part in parts_of(plan) if part.tensor == "relu_3")
    good = estimated(graph, plan, amax, x)
    bad = estimated(graph, plan, {**amax, "relu_3": 0.1 * amax["relu_3"]}, x)
    assert bad.kl([relu]) > 10 * good.kl([relu])
    column = good.parts.index(relu)
    assert bad.part_sqnr[column] < good.part_sqnr[column] - 10
    assert bad.layer_sqnr[relu.consumer] < good.layer_sqnr[relu.consumer] - 10


@pytest.mark.slow
def test_an_error_of_zero_has_no_finite_ratio() -> None:
    graph = graph_from_model(Linear([[1.0, -1.0], [1.0, 1.0]]), InputSpec((1, 1, 2)))
    plan = place_quantizers(graph.onnx)
    x = torch.tensor([[[[3.0, -7.0]]]])
    found = estimated(graph, plan, {plan.observed[0]: 127.0}, x, task=Classes(2))
    assert set(found.part_sqnr) == {math.inf}
    assert found.kl(found.parts) == 0


def test_batch_axes_follow_the_declared_shapes() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[batch, 2, 3] x) => (float[2, batch, 3] y)'
        "<float[2, 3] c> { y = Transpose <perm=[1,0,2]> (x) }"
    )
    assert batch_axes(model) == {"x": 0, "y": 1}


@pytest.mark.parametrize("network", [networks.Branches, networks.Sequence, networks.Shared])
def test_plan_of_parts_restores_the_plan_and_keeps_single_readers(network: type[nn.Module]) -> None:
    graph = graph_of(network)
    plan = place_quantizers(graph.onnx)
    parts = parts_of(plan)
    assert plan_of_parts(plan, parts) == plan
    assert plan_of_parts(plan, []) == QuantizationPlan((), ())
    for part in parts:
        assert parts_of(plan_of_parts(plan, [part])) == (part,)
