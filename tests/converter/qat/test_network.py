"""The student: at first the PTQ network, with the plan's quantizers; its weights and ranges are trained."""

import pytest
import torch
from torch import nn

from converter.graph.twin import parameter_of
from converter.qat.backends import backend_from_name
from converter.qat.learned_ranges import ActivationRange
from converter.qat.network import student_from_graph, teacher_from_graph, unsigned_ranges
from converter.qat.options import BACKENDS, QATOptions
from converter.qat.quantizers import amax_of
from converter.quantize.fake_quant import simulate
from converter.quantize.qdq import qdq_from_onnx
from tests.converter.networks import Perceptron, Residual, Shared
from tests.converter.qat import double
from tests.converter.qat.cases import case, fresh
from tests.converter.reference import NETWORKS, inputs_of, run_onnx

pytestmark = pytest.mark.slow


def assert_same_logits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for rounding, which now and then carries a value over a step's middle."""
    error = (ours - theirs).abs() / theirs.std()
    assert float(error.median()) < 1e-4
    assert float(error.max()) < 0.05


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_untrained_it_is_the_network_of_post_training_quantization(
    network: type[nn.Module], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch)
    graph, plan, amax = case(network)
    x = inputs_of(network)
    student = student_from_graph(graph, plan, amax, QATOptions(), backend_from_name(backend))
    with torch.no_grad():
        (ours,) = student(x)
        assert_same_logits(ours, simulate(graph, plan, amax, 8)(x))
    assert_same_logits(ours, torch.from_numpy(run_onnx(qdq_from_onnx(graph.onnx, plan, amax), x)[0]))


@pytest.mark.parametrize("network", NETWORKS)
def test_all_weights_of_the_plan_are_trained(network: type[nn.Module]) -> None:
    graph, plan, amax = case(network)
    student = student_from_graph(graph, plan, amax, QATOptions(), backend_from_name("modelopt"))
    learned = {id(value) for value in student.learned().values()}
    assert all(id(parameter_of(student.module, weight.tensor)) in learned for weight in plan.weights)


def test_one_range_for_all_edges_that_have_it() -> None:
    student = fresh().student
    _, plan, _ = case()
    shared = [pair.tensor for pair in plan.activations if pair.range_of == "max_pool2d"]
    assert shared == ["relu", "max_pool2d"]
    ranges = [module for module in student.modules() if isinstance(module, ActivationRange)]
    assert len(ranges) == len(plan.observed) < len(plan.activations)
    assert len(student.learned()) == len(ranges) + len(list(case()[0].module.parameters()))


def test_changed_weights_and_ranges_are_seen_by_the_quantizers() -> None:
    graph, plan, amax = case()
    student, x = fresh().student, inputs_of(Residual)
    with torch.no_grad():
        for name, value in student.learned().items():
            value.add_(0.3) if name.endswith("log_ratio") else value.mul_(2)
        student(x)
    weight = graph.module.get_parameter("fc.weight").detach()
    quantizers = [module for name, module in student.named_modules() if name.endswith("quantizer")]
    assert float(amax_of(quantizers[-1]).max()) == pytest.approx(2 * float(weight.abs().max()))
    assert student.amax() == pytest.approx({name: amax[name] * 1.3498588 for name in plan.observed})


def test_ranges_that_are_not_learned_stay() -> None:
    state = fresh(QATOptions(learn_ranges=False))
    assert not any(name.endswith("log_ratio") for name in state.student.learned())
    assert len(state.student.learned()) == len(list(case()[0].module.parameters()))


def test_unsigned_ranges_are_those_behind_a_relu() -> None:
    graph, plan, amax = case()
    assert set(plan.observed) - unsigned_ranges(graph.onnx, plan) == {"input", "conv2d_5"}
    x = inputs_of(Residual)
    options = [QATOptions(num_bits=4, unsigned=unsigned) for unsigned in (False, True)]
    with torch.no_grad():
        exact = graph.module(x)
        errors = [
            (student_from_graph(graph, plan, amax, o, backend_from_name("modelopt"))(x)[0] - exact)
            .abs()
            .mean()
            for o in options
        ]
    assert errors[1] < 0.9 * errors[0]


def test_the_teacher_is_the_network_with_its_features() -> None:
    graph, plan, _ = case(Shared)
    x = inputs_of(Shared)
    logits, features = teacher_from_graph(graph, plan)(x)
    assert torch.allclose(logits, graph.module(x), atol=1e-5)
    assert len(features) == len(plan.observed) - 1
    assert not logits.requires_grad


@pytest.mark.parametrize("network", [Residual, Perceptron])
def test_both_take_inputs_in_either_memory_layout(network: type[nn.Module]) -> None:
    graph, plan, amax = case(network)
    student = student_from_graph(graph, plan, amax, QATOptions(), backend_from_name("modelopt"))
    x = inputs_of(network)
    last = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert_same_logits(*student(last), *student(x))
        assert torch.allclose(teacher_from_graph(graph, plan)(last)[0], graph.module(x), atol=1e-4)
