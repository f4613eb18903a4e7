"""First layers whose batch norms have seen procedural images, so that they remember what training leaves behind."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from calibrators.data.procedural import procedural_images

SIDE = 32
TINT = (1.0, 0.97, 0.92)
"""Of red, green and blue, as in photographs."""


@lru_cache
def pixels(channels: int) -> Tensor:
    """Images in [0, 1] with more red than blue."""
    tint = torch.tensor(TINT[:channels]).view(-1, 1, 1)
    return procedural_images(InputSpec((channels, SIDE, SIDE)), 96, seed=3) * tint


def inputs(spec: InputSpec) -> Tensor:
    """The images as a network for ``spec`` takes them."""
    x = pixels(spec.shape[0])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return ((x.flip(1) if spec.channel_order == "bgr" else x) - mean) / std


@torch.no_grad()
def seen(module: nn.Module, spec: InputSpec) -> nn.Module:
    """``module``, in eval mode, after its batch norms have seen the images."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the plain average
    module.train()(inputs(spec))
    return module.eval()


def stem(spec: InputSpec, conv: nn.Conv2d | None = None, *between: nn.Module) -> nn.Sequential:
    """A convolution of random weights and its batch norm, which has seen the images."""
    torch.manual_seed(0)
    conv = conv or nn.Conv2d(spec.shape[0], 24, 3, padding=1, bias=False)
    conv.reset_parameters()
    norm = nn.BatchNorm2d(conv.out_channels)
    return nn.Sequential(*seen(nn.Sequential(conv, *between, norm), spec))
