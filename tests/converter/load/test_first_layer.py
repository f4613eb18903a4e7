"""The first convolution and its batch norm, found in modules and graphs."""

from collections.abc import Callable
from functools import partial

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.graph.twin import twin_from_onnx
from converter.load.first_layer import first_layer
from tests.converter.load.first_layers import seen, stem

SHAPE = (3, 32, 32)
SPEC = InputSpec(SHAPE)


class Changed(nn.Module):
    """A network that changes its images before ``stem``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem = kind, stem(SPEC)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "scaled":
            x = (x.flip(1) * 255 - torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)) / 64
        elif self.kind == "squared":
            x = x * x
        elif self.kind == "smaller":
            x = x[:, :, ::2, ::2]
        elif self.kind == "blurred":
            x = nn.functional.avg_pool2d(x, 3, 1, 1)
        elif self.kind == "padded":
            x = nn.functional.pad(x, (0, 1, 0, 2))
        elif self.kind == "broken":
            raise ValueError("of no use")
        y: Tensor = self.stem(x)
        return y


def test_the_layer_is_the_networks_own() -> None:
    module = stem(SPEC, nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.Identity(), nn.Dropout())
    found = first_layer(module, SHAPE)
    assert found is not None
    conv, norm = module[0], module[-1]
    assert torch.equal(found.weight, conv.weight.double())
    assert torch.equal(found.bias, conv.bias.double())
    assert torch.equal(found.mean, norm.running_mean.double())
    assert torch.equal(found.variance, norm.running_var.double())
    assert torch.equal(found.matrix, torch.eye(3).double())
    assert not found.offset.any()
    # The upper left tap of a 5x5 kernel, stride 2, lies on the image for 15 of the 16 places of each axis.
    assert found.inside.shape == (25, 16 * 16)
    assert int(found.inside[0].sum()) == 15 * 15
    assert bool(found.inside[12].all())


def test_grouped_weights_are_of_their_own_channels() -> None:
    conv = nn.Conv2d(3, 24, 3, groups=3, bias=False)
    found = first_layer(stem(SPEC, conv), SHAPE)
    assert found is not None
    assert found.weight.shape == (24, 3, 3, 3)
    assert torch.equal(found.weight[8:16, 1], conv.weight[8:16, 0].double())
    assert not found.weight[8:16, [0, 2]].any()


def test_what_the_network_does_to_its_pixels_is_known() -> None:
    found = first_layer(Changed("scaled").eval(), SHAPE)
    assert found is not None
    assert torch.allclose(found.matrix, torch.eye(3).flip(0).double() * 255 / 64)
    assert torch.allclose(found.offset, -torch.tensor([1.0, 2.0, 3.0]).double() / 64)


def test_padding_by_the_network_counts_as_border() -> None:
    found = first_layer(Changed("padded").eval(), SHAPE)
    assert found is not None
    # 34 x 33 values and a border of one more: the lower right tap sees the image in 31 rows and 31 columns.
    assert found.inside.shape == (9, 34 * 33)
    assert int(found.inside[8].sum()) == 31 * 31


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 24, 3)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "an activation between": lambda: stem(SPEC, None, nn.ReLU()),
    "one in place": lambda: stem(SPEC, None, nn.ReLU(inplace=True)),
    "no batch norm": conv,
    "a new batch norm": lambda: nn.Sequential(conv(), nn.BatchNorm2d(24)).eval(),
    "statistics of the batch": lambda: nn.Sequential(
        conv(), nn.BatchNorm2d(24, track_running_stats=False)
    ).eval(),
    "two convolutions": lambda: seen(nn.Sequential(conv(), nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24)), SPEC),
    "space to depth": lambda: seen(
        nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24)), SPEC
    ),
    "few filters": lambda: stem(SPEC, nn.Conv2d(3, 5, 3)),
    **{kind: partial(Changed, kind) for kind in ("squared", "smaller", "blurred", "broken")},
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_others_have_none(make: Callable[[], nn.Module]) -> None:
    assert first_layer(make().eval(), SHAPE) is None


def test_a_graph_has_the_same_layer() -> None:
    module = stem(SPEC, nn.Conv2d(3, 24, 3, stride=2, bias=False))
    conv, norm = module[0], module[-1]
    values = {
        "w": conv.weight,
        "scale": norm.weight,
        "shift": norm.bias,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[0, 0, 1, 1]),
            helper.make_node("BatchNormalization", ["y", "scale", "shift", "mean", "variance"], ["z"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 24, 16, 16])],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    found = first_layer(twin_from_onnx(model), SHAPE)
    assert found is not None
    assert torch.equal(found.weight, conv.weight.double())
    assert torch.equal(found.mean, norm.running_mean.double())
    # A border below and at the right alone: the lower right tap is beyond the image in the last row and column.
    assert bool(found.inside[0].all())
    assert int(found.inside[8].sum()) == 15 * 15
