"""The generator: latent vector and class in, a valid input of the classifier out."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE
from calibrators.zscgan import blocks
from calibrators.zscgan.batch_norm import as_scale_and_shift, batch_moments, moments_over_ranks

SMALLEST_MAP = 4
MOST_STAGES = 4
FULL_WIDTH = 32
"""Maps of this height have ``width`` channels, smaller ones more and larger ones fewer."""


@dataclass(frozen=True)
class GeneratorConfig:
    """All that is needed to build a generator again, and whether it is trained to its labels."""

    spec: InputSpec
    classes: int
    latent: int
    width: int
    labelled: bool = True

    def labels(self) -> Int[Tensor, "classes"]:
        """The classes, in a random order that is always the same: the first ones are an even choice."""
        return torch.randperm(self.classes, generator=torch.Generator().manual_seed(0))


class _NormReLU(torch.autograd.Function):
    """The ReLU of a conditional batch norm by the batch's own moments, and these, with the gradient in two passes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = blocks.moments(x)
        inverse = (variance + eps).rsqrt()
        slope = scale * inverse
        y = blocks.scaled(x, slope, shift - slope * mean, relu=True)
        ctx.save_for_backward(x, y, scale, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor, _grad_mean: Tensor, _grad_variance: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, scale, mean, inverse = ctx.saved_tensors
        gradient = blocks.Gradient(grad, y)
        of_shift, of_scale = gradient.sums(x, mean[None], inverse[None], len(scale))
        count = x.numel() // x.shape[1]
        # Through the moments, the gradient loses its mean, and its share of the normalised values.
        lost, share = ((scale * total).sum(0) * inverse / count for total in (of_shift, of_scale))
        slope = -share * inverse
        grad_x = gradient.combined(x, scale * inverse, slope[None], (-lost - slope * mean)[None])
        return grad_x, of_scale, of_shift, None


class ConditionalBatchNorm(nn.Module):
    """Batch norm whose scale and shift belong to the sample's class (de Vries et al., arXiv 1707.00683), and a ReLU.

    Training normalises over the batches of all ``ranks`` together.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(classes, channels)
        self.shift = nn.Embedding(classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)
        self.ranks = SINGLE

    def forward(
        self, x: Float[Tensor, "batch channels height width"], labels: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        one = self.scale.num_embeddings == 1
        scale, shift = (part.weight if one else part(labels) for part in (self.scale, self.shift))
        if blocks.fits_blocks(x) and self.ranks.world == 1 and (self.training or not torch.is_grad_enabled()):
            return self._in_blocks(x, scale, shift)
        scale, shift = scale[:, :, None, None], shift[:, :, None, None]
        if self.training:
            mean, deviation = self._moments_of_all(x)
            scale = scale / deviation
            return F.relu(torch.addcmul(shift - scale * mean, x, scale))
        return F.relu(torch.addcmul(shift, self.norm(x), scale))

    def _in_blocks(
        self,
        x: Float[Tensor, "batch channels height width"],
        scale: Float[Tensor, "_ channels"],
        shift: Float[Tensor, "_ channels"],
    ) -> Float[Tensor, "batch channels height width"]:
        if self.training:
            y, mean, variance = _NormReLU.apply(x, scale, shift, self.norm.eps)
            self._remember(mean, variance, x.numel() // x.shape[1])
            assert isinstance(y, Tensor)
            return y
        own, offset = as_scale_and_shift(self.norm)
        return blocks.scaled(x, scale * own, scale * offset + shift, relu=True)

    def _moments_of_all(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "channels 1 1"], Float[Tensor, "channels 1 1"]]:
        """Mean and standard deviation over the ranks' batches; updates the running statistics.

        nn.SyncBatchNorm does the same on CUDA alone.
        """
        mean, variance = moments_over_ranks({"x": batch_moments(x)}, self.ranks)["x"]
        self._remember(mean, variance, self.ranks.world * x.numel() // x.shape[1])
        return mean[:, None, None], (variance + self.norm.eps).sqrt()[:, None, None]

    @torch.no_grad()
    def _remember(
        self, mean: Float[Tensor, "channels"], variance: Float[Tensor, "channels"], count: int
    ) -> None:
        """Update the running statistics by the moments of ``count`` pixels."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)


class Stage(nn.Module):
    """Nearest upsampling, 3x3 convolution, conditional batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = ConditionalBatchNorm(outputs, classes)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], labels: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch outputs taller wider"]:
        x = F.conv_transpose2d(x, doubling(self.conv.weight), stride=2, padding=1)
        normalised: Tensor = self.norm(x, labels)
        return normalised


def doubling(weight: Float[Tensor, "outputs inputs 3 3"]) -> Float[Tensor, "inputs outputs 4 4"]:
    """The weight of the transposed convolution that is nearest upsampling and a convolution with ``weight``.

    It has 4 products where those have 9, as an upsampled map holds each value four times.
    """
    turned = weight.flip(2, 3).transpose(0, 1)
    return torch.stack([F.pad(turned, (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)]).sum(0)


class Generator(nn.Module):
    """``G(z, y)``: samples inside the pixel bounds of ``spec``, (batch, channels, height, width).

    A linear layer makes the smallest map, from the latent vector and an embedding of the class; each
    stage doubles it. Sizes that are no multiple are cropped. A sigmoid between the bounds keeps every
    value a valid pixel: unbounded samples inflate all calibrated ranges.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        channels, height, width = config.spec.shape
        stages = stage_count(height, width)
        self.map = (math.ceil(height / 2**stages), math.ceil(width / 2**stages))
        widths = [channels_at(self.map[0] * 2**k, config.width) for k in range(stages + 1)]
        self.embedding = nn.Embedding(config.classes, config.latent)
        self.linear = nn.Linear(2 * config.latent, widths[0] * self.map[0] * self.map[1], bias=False)
        self.norm = ConditionalBatchNorm(widths[0], config.classes)
        self.stages = nn.ModuleList(Stage(a, b, config.classes) for a, b in pairwise(widths))
        self.head = nn.Conv2d(widths[-1], channels, 3, padding=1)
        low, high = torch.tensor(config.spec.low), torch.tensor(config.spec.high)
        self.low: Tensor
        self.span: Tensor
        self.register_buffer("low", low.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("span", (high - low).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.register_buffer("mean", mean_pixel(config.spec), persistent=False)

    def forward(
        self, z: Float[Tensor, "batch latent"], labels: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.inputs(self.pixels(z, labels))

    def pixels(
        self, z: Float[Tensor, "batch latent"], labels: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The samples as pixels in [0, 1]."""
        _, height, width = self.config.spec.shape
        x = self.linear(torch.cat([z, self.embedding(labels)], dim=1)).unflatten(1, (-1, *self.map))
        x = self.norm(x.contiguous(memory_format=torch.channels_last), labels)
        for stage in self.stages:
            x = stage(x, labels)
        return torch.sigmoid(self.head(x)[:, :, :height, :width])

    def inputs(
        self, pixels: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """``pixels`` between the bounds of a valid input."""
        if blocks.fits_blocks(pixels):
            return blocks.in_long_rows(pixels, self.span[:, :, 0, 0], self.low[:, :, 0, 0])
        return torch.addcmul(self.low, self.span, pixels)


def mean_pixel(spec: InputSpec) -> Float[Tensor, "channels"]:
    """The mean that normalises the inputs, which is that of the training images; middle grey where nothing does."""
    return torch.tensor(spec.mean if any(spec.mean) else [0.5] * len(spec.mean))


def stage_count(height: int, width: int) -> int:
    """Doublings from the smallest map to the input: 1 at 8x8, 3 at 32x32, 4 from 64x64 up."""
    return max(0, min(MOST_STAGES, int(min(height, width) / SMALLEST_MAP).bit_length() - 1))


def channels_at(height: int, width: int) -> int:
    """Channels of a map: halved with each doubling, from 4 x ``width`` down to ``width`` / 2.

    So every stage costs about the same, and a 224x224 input less than the classifier itself.
    """
    return max(4, round(width * min(4.0, max(0.5, 2 * FULL_WIDTH / height))))
