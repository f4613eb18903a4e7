"""Guidance: a few gradient steps that take samples to their classes and to the statistics of the batch norms."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.batches import send
from calibrators.data.input_spec import InputSpec
from calibrators.kernels import exact_kernels
from calibrators.zscgan.batch_norm import BatchStatistics, targets_from_model
from calibrators.zscgan.generator import mean_pixel
from calibrators.zscgan.layout import fastest_form
from calibrators.zscgan.losses import batch_norm_loss, label_losses, pixel_loss
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.training import moments_of

LEVELS = 255
"""Of a pixel, above black."""
SMALLEST_SIDE = 8
"""Pixels of the smallest image whose gradient is looked at."""
MOST_SCALES = 5
TINY = 1e-12
OVERSHOOT = 2.0
"""Times Polyak's step: the loss falls faster on the way to another class than at its start."""


class Guide:
    """Takes samples down the losses of the generator's training, pixel by pixel, in ``options.guide_steps`` steps.

    A generator that has seen every class some times, or never, leaves to each sample what is its own; a few steps of
    the sample itself suffice for that (as in DeepInversion, Yin et al., arXiv 1912.08795, which takes thousands from
    noise). A step follows the gradient at several scales, each of the same strength, so that it changes shapes and not
    only single pixels (the normalised gradients of DeepDream, Mordvintsev et al., 2015). It is twice as
    long as would meet the statistics and the label if the losses were linear (Polyak's step), at most
    ``options.guide_rate`` a scale.

    ``teacher`` gives logits, is frozen and in eval mode. Batches are guided each for itself, so their order is of no
    account.
    """

    def __init__(self, teacher: nn.Module, spec: InputSpec, options: ZSCGANOptions) -> None:
        self._teacher, self._layout = fastest_form(teacher, spec.shape)
        self._targets = targets_from_model(self._teacher)
        self._options, self._batch = options, options.batch_for(*spec.shape[1:])
        device = next(teacher.parameters()).device
        low, high = (torch.tensor(side, device=device).view(1, -1, 1, 1) for side in (spec.low, spec.high))
        self._low, self._span, self._mean = low, high - low, mean_pixel(spec).to(device)

    @property
    def key(self) -> str:
        """A name for what it does, beside the network."""
        return f"{self._options.guide_steps} x {self._options.guide_rate:g} in batches of {self._batch}"

    def __call__(
        self, x: Float[Tensor, "inputs channels height width"], labels: Int[Tensor, "inputs"]
    ) -> UInt8[Tensor, "inputs channels height width"]:
        """The pixels of the guided samples, from 0 to 255."""
        pixels = ((x - self._low) / self._span).clamp(0, 1)
        with exact_kernels(), torch.enable_grad(), BatchStatistics(self._teacher) as statistics:
            parts = zip(pixels.split(self._batch), send(labels, x.device).split(self._batch), strict=True)
            guided = [self._guided(some, wanted, statistics) for some, wanted in parts]
        return torch.cat(guided).mul(LEVELS).round().to(torch.uint8)

    def inputs(
        self, pixels: UInt8[Tensor, "inputs channels height width"]
    ) -> Float[Tensor, "inputs channels height width"]:
        """What the network takes for ``pixels``."""
        return torch.addcmul(self._low, self._span, pixels / LEVELS)

    def _guided(self, pixels: Tensor, labels: Tensor, statistics: BatchStatistics) -> Tensor:
        for _ in range(self._options.guide_steps):
            pixels = self._step(pixels.detach().requires_grad_(), labels, statistics).detach()
        return pixels

    def _step(self, pixels: Tensor, labels: Tensor, statistics: BatchStatistics) -> Tensor:
        """``pixels`` after one step; as they are where their gradient is not finite."""
        options = self._options
        x = torch.addcmul(self._low, self._span, pixels)
        logits = self._teacher(x.contiguous(memory_format=self._layout))
        statistics_off = options.bn_weight * batch_norm_loss(moments_of(statistics), self._targets)
        label_off = label_losses(logits, labels, options.label_smoothing)
        loss = statistics_off + label_off.mean() + pixel_loss(pixels, self._mean, 0.0, options.prior_weight)
        (gradient,) = torch.autograd.grad(loss * len(pixels), pixels)
        with torch.no_grad():
            way = _over_scales(gradient)
            slope = (gradient * way).sum((1, 2, 3))
            length = (OVERSHOOT * (statistics_off + label_off) / slope.clamp_min(TINY)).clamp(
                0, options.guide_rate
            )
            moved = (pixels - length[:, None, None, None] * way).clamp(0, 1)
            return torch.where(moved.isfinite().all(), moved, pixels)


def _over_scales(
    gradient: Float[Tensor, "batch channels height width"], scales: int = MOST_SCALES
) -> Float[Tensor, "batch channels height width"]:
    """The sum of ``gradient`` at several scales, each half the one before it, and of a mean square of 1 in a sample."""
    way = gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(TINY)
    height, width = gradient.shape[2:]
    half = height // 2, width // 2
    if scales == 1 or min(half) < SMALLEST_SIDE:
        return way
    coarse = _over_scales(F.interpolate(gradient, size=half, mode="area"), scales - 1)
    return way + F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


def guide_for(
    teacher: nn.Module, spec: InputSpec, classes: int, options: ZSCGANOptions, steps: int
) -> Guide | None:
    """A guide where a generator of so many ``steps`` leaves one to do: its samples have labels that it has not learned.

    ``options.guide_steps`` of 0 is none.
    """
    batch = options.batch_for(*spec.shape[1:])
    learned = classes < 2 or replace(options, steps=steps).learns(classes, batch)
    return None if learned or not options.guide_steps else Guide(teacher, spec, options)
