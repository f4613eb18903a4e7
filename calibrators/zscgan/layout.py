"""The memory layout in which a classifier runs faster, where its forward can take it."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from calibrators.data.batches import send
from calibrators.zscgan.batch_norm import BatchStatistics

Network = TypeVar("Network", bound=nn.Module)

AGREEING = 1e-3
"""Two layouts add in other orders; up to this part of the largest output that is rounding."""


def fastest_form(network: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, torch.memory_format]:
    """A copy of ``network`` in channels_last, or ``network`` itself, and the layout its inputs must have.

    channels_last makes convolutions on a CPU up to twice as fast, but a ``view`` of its feature maps fails. So the
    copy is tried on two inputs of ``shape`` (channels, height, width), forward and back to the input.
    """
    try:
        copied = in_channels_last(copy.deepcopy(network))
        fits = _takes_channels_last(network, copied, shape)
    # Some networks can't be copied, and a forward, being the user's code, can raise anything.
    except Exception:  # noqa: BLE001
        fits = False
    return (copied, torch.channels_last) if fits else (network, torch.contiguous_format)


def in_channels_last(network: Network) -> Network:
    """``network``, its weights of four axes in channels_last; ``Module.to`` refuses a buffer of five."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return network


def _takes_channels_last(network: nn.Module, copied: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether ``copied`` gives what ``network`` does; raises what its forward or backward pass raises."""
    device = next(network.parameters()).device
    x = send(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), device)
    with torch.no_grad():
        expected = _results(network, x.clone())
    with torch.enable_grad():
        # A clone, as a forward may change its input in place, which a leaf with a gradient forbids.
        leaf = x.to(memory_format=torch.channels_last).requires_grad_()
        got = _results(copied, leaf.clone())
        torch.autograd.grad([result.sum() for result in got if result.requires_grad], leaf)
    return all(_agree(ours, theirs) for ours, theirs in zip(got, expected, strict=True))


def _results(network: nn.Module, x: Tensor) -> list[Tensor]:
    """All that a training learns from: the output, which may be constant, and the moments before each batch norm."""
    with BatchStatistics(network) as statistics:
        output = network(x)
        return [output, *(part for moments in statistics.moments().values() for part in moments)]


def _agree(got: Tensor, expected: Tensor) -> bool:
    largest = max(1.0, float(expected.abs().max()))
    return torch.allclose(got, expected, rtol=0, atol=AGREEING * largest)
