"""The two forms of the graph against the model and against each other."""

import onnx
import pytest
import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.errors import CaptureError
from converter.graph.capture import graph_from_model, observe
from converter.graph.twin import value_name
from converter.quantize.placement import place_quantizers
from tests.converter import networks
from tests.converter.reference import (
    FLOAT_TOLERANCE,
    NETWORKS,
    SHAPES,
    graph_of,
    inputs_of,
    largest_difference,
    run_onnx,
    seeded_model,
)

pytestmark = pytest.mark.slow

every_network = pytest.mark.parametrize("network", NETWORKS)


@pytest.mark.slow
@every_network
@torch.no_grad()
def test_agrees_with_the_model(network: type[nn.Module]) -> None:
    graph, x = graph_of(network), inputs_of(network)
    expected = seeded_model(network)(x)
    tolerance = FLOAT_TOLERANCE * float(expected.std())
    torch.testing.assert_close(graph.module(x), expected, rtol=0, atol=tolerance)
    assert largest_difference(graph, x) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("network", [networks.Residual, networks.Perceptron])
def test_takes_inputs_in_either_memory_layout(network: type[nn.Module]) -> None:
    """Samples come channels-last; a flatten of them is no view."""
    graph, x = graph_of(network), inputs_of(network)
    lasting = graph.module(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(lasting, graph.module(x), rtol=1e-5, atol=1e-5)


@every_network
def test_equal_names_mean_equal_values(network: type[nn.Module]) -> None:
    graph, x = graph_of(network), inputs_of(network)
    plan = place_quantizers(graph.onnx)
    names = graph.activations
    assert {*plan.observed, *(pair.tensor for pair in plan.activations)} <= set(names)
    assert names[0] == "input"
    assert names[-1] == "logits"
    logits, values = observe(graph.module, x, names)
    for name, theirs in zip(names, run_onnx(graph.onnx, x, list(names)), strict=True):
        ours = values[name]
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-4, atol=1e-5, msg=name)
    assert torch.equal(logits, graph.module(x))


@every_network
def test_every_planned_edge_is_an_edge_of_the_fx_graph(network: type[nn.Module]) -> None:
    graph = graph_of(network)
    plan = place_quantizers(graph.onnx)
    reads = {
        (str(read.target) if read.op == "get_attr" else value_name(read), value_name(node))
        for node in graph.module.graph.nodes
        for read in node.all_input_nodes
    }
    planned = {(pair.tensor, consumer) for pair in plan.activations for consumer in pair.consumers}
    planned |= {(weight.tensor, weight.consumer) for weight in plan.weights}
    assert planned <= reads


@every_network
def test_onnx_is_valid_and_declares_what_fx_knows(network: type[nn.Module]) -> None:
    graph = graph_of(network)
    onnx.checker.check_model(graph.onnx, full_check=True)
    assert [v.name for v in (*graph.onnx.graph.input, *graph.onnx.graph.output)] == ["input", "logits"]
    for value in (graph.onnx.graph.input[0], graph.onnx.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    names = {value_name(node) for node in graph.module.graph.nodes}
    assert {value.name for value in graph.onnx.graph.value_info} <= names
    initializers = {value.name for value in graph.onnx.graph.initializer}
    assert {name for name, _ in graph.module.named_parameters()} <= initializers
    assert b"stack_trace" not in graph.onnx.SerializeToString()


@every_network
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_takes_any_batch(network: type[nn.Module], batch: int) -> None:
    graph, x = graph_of(network), inputs_of(network, batch)
    assert graph.module(x).shape == (batch, 5)
    assert largest_difference(graph, x) < 1e-5  # logits of these networks spread over 0.1 to 0.5


@pytest.mark.slow
def test_weights_are_trainable_and_belong_to_the_graph() -> None:
    model = seeded_model(networks.Residual).requires_grad_(False)
    graph = graph_from_model(model, InputSpec(SHAPES[networks.Residual]))
    assert graph.module.get_parameter("fc.weight").requires_grad
    graph.module(inputs_of(networks.Residual)).sum().backward()
    assert graph.module.get_parameter("stem.0.weight").grad is not None
    with torch.no_grad():
        graph.module.get_parameter("fc.weight").zero_()
    assert model.fc.weight.abs().max() > 0
    assert not graph.module.training


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes() -> None:
    again = graph_from_model(seeded_model(networks.Residual), InputSpec(SHAPES[networks.Residual]))
    assert again.onnx.SerializeToString() == graph_of(networks.Residual).onnx.SerializeToString()


@pytest.mark.slow
def test_the_memory_format_does_not_matter() -> None:
    model = seeded_model(networks.Residual)
    expected = graph_from_model(model, InputSpec(SHAPES[networks.Residual]))
    model = seeded_model(networks.Residual).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    graph = graph_from_model(model, InputSpec(SHAPES[networks.Residual]))
    assert graph.onnx.SerializeToString() == expected.onnx.SerializeToString()


def test_observing_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="got nothing_like_it"):
        observe(graph_of(networks.Shared).module, inputs_of(networks.Shared), ["relu", "nothing_like_it"])


class Head(nn.Module):
    """Base of the networks that are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 4 * 4, 5)


class FixedBatch(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.view(2, -1))


class Branching(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))


class TwoOutputs(Head):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x.flatten(1)), x


class NoTensor(Head):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.fc(x.flatten(1)), 1


class NoBatch(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)).mean(0)


class LeavesTorch(Head):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.from_numpy(x.numpy() * 2).flatten(1))


class NoOnnx(Head):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(self.fc(x.flatten(1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (NoOnnx, r"it has no ONNX for the operator prims.bessel_j0.default; replace that operator"),
        (FixedBatch, "its forward fixes the batch; write x.flatten"),
        (Branching, "branches on the values of a tensor.*test_capture.py.*torch.where"),
        (
            NoTensor,
            "one tensor, or a tuple, list, dictionary or named tuple of tensors, but it holds a int; wrap it",
        ),
        (NoBatch, r"expected outputs of shape \[2, ...\] for a batch of 2, got output of \[5\]"),
        (LeavesTorch, "torch.export can't trace the network"),
    ],
)
def test_refusals_are_one_line(
    network: type[nn.Module], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        graph_from_model(network(), InputSpec((3, 4, 4)))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_input_shape_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"inputs of 3x8x8, but it failed on one: .*; check --input-shape"):
        graph_from_model(FixedBatch(), InputSpec((3, 8, 8)))


@pytest.mark.slow
def test_a_success_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    graph_from_model(seeded_model(networks.Perceptron), InputSpec(SHAPES[networks.Perceptron]))
    assert capfd.readouterr() == ("", "")


def test_several_outputs_come_in_their_order() -> None:
    network = TwoOutputs().eval()
    graph, x = graph_from_model(network, InputSpec((3, 4, 4))), torch.rand(5, 3, 4, 4)
    assert [value.name for value in graph.onnx.graph.output] == ["output_0", "output_1"]
    with torch.no_grad():
        logits, pixels = graph.module(x)
        torch.testing.assert_close(logits, network(x)[0])
    assert torch.equal(pixels, x)
