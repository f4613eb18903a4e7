"""Batch norm folding on exported graphs."""

import pytest
import torch
from torch import Tensor, fx, nn

from converter.fold import fold_batch_norms
from tests.converter import networks
from tests.converter.reference import FLOAT_TOLERANCE, SHAPES, inputs_of, seeded_model


def exported(model: nn.Module, x: Tensor) -> fx.GraphModule:
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module(check_guards=False)


def norms_left(module: fx.GraphModule) -> int:
    return sum(node.target == torch.ops.aten.batch_norm.default for node in module.graph.nodes)


def read_names(module: fx.GraphModule) -> list[str]:
    return sorted({str(node.target) for node in module.graph.nodes if node.op == "get_attr"})


@pytest.mark.parametrize(
    ("network", "folded", "left"),
    [
        (networks.Residual, 6, 0),
        (networks.Branches, 0, 0),
        (networks.Squeeze, 3, 0),
        (networks.Upsampling, 3, 0),
        (networks.Perceptron, 2, 0),
        (networks.Sequence, 0, 1),
        (networks.PreActivation, 0, 2),
        (networks.Shared, 3, 0),
    ],
)
@torch.no_grad()
def test_folds_what_can_be_folded(network: type[nn.Module], folded: int, left: int) -> None:
    model, x = seeded_model(network), inputs_of(network)
    module = exported(model, x)
    assert (fold_batch_norms(module), norms_left(module)) == (folded, left)
    expected = model(x)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=FLOAT_TOLERANCE * float(expected.std()))
    assert len(SHAPES) == 8, "each small network has a line above"


def test_names_stay_and_missing_biases_are_added() -> None:
    module = exported(seeded_model(networks.Upsampling), inputs_of(networks.Upsampling))
    fold_batch_norms(module)
    layers = ("conv", "fc", "up1", "up2")
    assert read_names(module) == [f"{layer}.{name}" for layer in layers for name in ("bias", "weight")]
    assert all(isinstance(module.get_parameter(name), nn.Parameter) for name in read_names(module))


def test_a_layer_called_twice_is_folded_once_for_each_norm() -> None:
    module = exported(seeded_model(networks.Shared), inputs_of(networks.Shared))
    fold_batch_norms(module)
    names = ["conv.bias", "conv.bias_1", "conv.weight", "conv.weight_1", "fc.bias", "fc.weight"]
    assert read_names(module) == names
    layers = [node for node in module.graph.nodes if node.target == torch.ops.aten.conv2d.default]
    assert [str(layer.args[1].target) for layer in layers] == ["conv.weight", "conv.weight", "conv.weight_1"]


class OneConvolution(nn.Module):
    def __init__(self, norm: nn.Module, *, bias: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=bias), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


def test_values_by_hand() -> None:
    model = OneConvolution(nn.BatchNorm2d(4, eps=0.0), bias=True).eval()
    with torch.no_grad():
        model.conv.bias.fill_(5.0)
        model.norm.running_mean.fill_(1.0)
        model.norm.running_var.fill_(4.0)
        model.norm.weight.fill_(3.0)
        model.norm.bias.fill_(0.5)
    weight = model.conv.weight.detach().clone()
    module = exported(model, torch.zeros(2, 3, 8, 8))
    fold_batch_norms(module)
    # 3 / sqrt(4) = 1.5; (5 - 1) * 1.5 + 0.5 = 6.5
    torch.testing.assert_close(module.get_parameter("conv.weight").detach(), 1.5 * weight)
    torch.testing.assert_close(module.get_parameter("conv.bias").detach(), torch.full((4,), 6.5))
    torch.testing.assert_close(model.conv.weight.detach(), weight, msg="the model keeps its own weights")


@torch.no_grad()
def test_tiny_variance_is_saved_by_eps() -> None:
    model = OneConvolution(nn.BatchNorm2d(4)).eval()
    model.norm.running_var.fill_(1e-26)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = exported(model, x)
    fold_batch_norms(module)
    expected = OneConvolution(nn.BatchNorm2d(4)).double()
    expected.load_state_dict(model.state_dict())
    reference = expected.eval()(x.double())
    error = (module(x) - reference).abs().max() / reference.std()
    assert float(error) < FLOAT_TOLERANCE


def test_a_norm_that_uses_the_batch_stays() -> None:
    module = exported(
        OneConvolution(nn.BatchNorm2d(4, track_running_stats=False)).eval(), torch.zeros(2, 3, 8, 8)
    )
    assert (fold_batch_norms(module), norms_left(module)) == (0, 1)


class OutputReadTwice(OneConvolution):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


class WeightReadTwice(OneConvolution):
    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.conv(x)) * self.conv(x)).mean((2, 3))


def test_an_output_that_is_read_twice_keeps_its_norm() -> None:
    module = exported(OutputReadTwice(nn.BatchNorm2d(4)).eval(), torch.zeros(2, 3, 8, 8))
    assert (fold_batch_norms(module), norms_left(module)) == (0, 1)


@torch.no_grad()
def test_a_weight_that_is_also_used_without_norm_keeps_its_name_and_value() -> None:
    model = networks.randomised(WeightReadTwice(nn.BatchNorm2d(4), bias=True))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module = exported(model, x)
    assert fold_batch_norms(module) == 1
    assert read_names(module) == ["conv.bias", "conv.bias_1", "conv.weight", "conv.weight_1"]
    torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-6)
