"""channels_last for the networks whose forward and backward take it; the others are run as they are."""

import copy

import pytest
import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from calibrators.synthetic import batches_from_model
from calibrators.zscgan.layout import fastest_form
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import sample_quality

OPTIONS = ZSCGANOptions(steps=2, batch=8, latent=8, width=8, samples_per_class=1, least_steps=1)


class Viewing(nn.Module):
    """The flattening of every tutorial, of feature maps larger than one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.norm(self.conv(x)))
        return self.fc(x.view(x.size(0), -1))


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.view(-1).view(gradient.shape)


class ViewingBackwards(Viewing):
    """Only the backward pass takes a view."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(_ContiguousGradient.apply(x)).flatten(1))


class Uncopyable(Viewing):
    def __deepcopy__(self, _memo: object) -> nn.Module:
        raise RuntimeError("no copies")


def layouts(model: nn.Module) -> list[tuple[int, ...]]:
    return [parameter.stride() for parameter in model.parameters()]


def test_channels_last_where_the_network_takes_it(teacher: nn.Module, spec: InputSpec) -> None:
    before = layouts(teacher)
    form, layout = fastest_form(teacher, spec.shape)
    assert layout == torch.channels_last
    assert form is not teacher
    assert form[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert layouts(teacher) == before


def test_channels_last_beside_a_constant_of_five_axes(teacher: nn.Module, spec: InputSpec) -> None:
    teacher.register_buffer("grid", torch.zeros(1, 3, 2, 2, 2))
    form, layout = fastest_form(teacher, spec.shape)
    assert layout == torch.channels_last
    assert form.grid.is_contiguous()


@pytest.mark.parametrize("kind", [Viewing, ViewingBackwards, Uncopyable])
def test_any_other_network_is_run_as_it_is(kind: type[nn.Module], spec: InputSpec) -> None:
    network = kind().eval().requires_grad_(False)
    assert fastest_form(network, spec.shape) == (network, torch.contiguous_format)


class WithoutLabels(nn.Module):
    """What a network is trained by that has no labels: a constant beside its batch norms."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        self.network(x)
        return x.new_zeros(len(x), 1)


def test_channels_last_for_a_network_without_labels(teacher: nn.Module, spec: InputSpec) -> None:
    _, layout = fastest_form(WithoutLabels(teacher), spec.shape)
    assert layout == torch.channels_last


def test_a_network_without_labels_that_computes_otherwise(spec: InputSpec) -> None:
    class Otherwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x if x.is_contiguous() else 2 * x)
            return x.new_zeros(len(x), 1)

    network = Otherwise().eval().requires_grad_(False)
    assert fastest_form(network, spec.shape) == (network, torch.contiguous_format)


def test_samples_for_a_network_that_views(spec: InputSpec) -> None:
    network = Viewing().eval()
    before, weights = layouts(network), copy.deepcopy(network.state_dict())
    batches = batches_from_model(network, spec, 16, 8, OPTIONS)
    assert sum(len(x) for x, _ in batches) == 16
    assert sample_quality(network, batches).bn_kl > 0
    assert layouts(network) == before
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
