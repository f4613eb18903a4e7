"""Guidance: a few gradient steps on the pixels of samples, toward their classes and the batch norms' statistics."""

from hashlib import sha256

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.batches import send
from calibrators.data.input_spec import InputSpec
from calibrators.kernels import exact_kernels
from calibrators.zscgan.batch_norm import BatchStatistics, targets_from_model
from calibrators.zscgan.ensemble import Ensemble
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
MOST_KEPT = 2**29
"""Bytes of guided pixels that are kept."""
OVERSHOOT = 2.0
"""Times Polyak's step: the loss falls faster on the way to another class than at its start."""


class Guide:
    """Optimizes the pixels of a generator's samples toward their classes, in ``options.guide_steps`` gradient steps.

    They go down the losses of the training but variety (as DeepInversion does from noise in thousands of steps, Yin et
    al., arXiv 1912.08795). The direction is the gradient at several scales, each of the same strength, so that a step
    changes shapes and not only single pixels (the normalised gradients of DeepDream, Mordvintsev et al., 2015). With
    ``f`` the losses of statistics and label, ``g`` their gradient and ``d`` the direction, the length is
    ``OVERSHOOT * f / (g . d)``, at most ``options.guide_rate``: Polyak's step, at which a linear ``f`` would be zero.

    ``teacher`` gives logits, is frozen and in eval mode. Samples are guided in batches of ``batch``, whose statistics
    count, each without regard to the others.
    """

    def __init__(self, teacher: nn.Module, spec: InputSpec, options: ZSCGANOptions) -> None:
        self._teacher, self._layout = fastest_form(teacher, spec.shape)
        self._targets = targets_from_model(self._teacher)
        self._options, self.steps = options, options.guide_steps
        self.batch = options.batch_for(*spec.shape[1:])
        device = next(teacher.parameters()).device
        low, high = (torch.tensor(side, device=device).view(1, -1, 1, 1) for side in (spec.low, spec.high))
        self._low, self._span, self._mean = low, high - low, mean_pixel(spec).to(device)
        self._kept: dict[bytes, Tensor] = {}
        self._room = MOST_KEPT

    @property
    def key(self) -> str:
        """A name for what it does, beside the network."""
        return f"{self.steps} x {self._options.guide_rate:g} in batches of {self.batch}"

    def samples(
        self, generator: Ensemble, z: Float[Tensor, "inputs latent"], conditions: Int[Tensor, "inputs 2"]
    ) -> Float[Tensor, "inputs channels height width"]:
        """Guided samples of ``generator``; kept, while there is room, for when they are asked for again.

        A guide serves one generator.
        """
        key = sha256(z.cpu().numpy().tobytes() + conditions.numpy().tobytes()).digest()
        if key not in self._kept:
            with torch.no_grad(), exact_kernels():
                x = generator(z, conditions)
            pixels = self(x, conditions[:, 1]).cpu()
            if pixels.nbytes > self._room:
                return self._inputs(pixels)
            self._room -= pixels.nbytes
            self._kept[key] = pixels
        return self._inputs(self._kept[key])

    def __call__(
        self, x: Float[Tensor, "inputs channels height width"], labels: Int[Tensor, "inputs"]
    ) -> UInt8[Tensor, "inputs channels height width"]:
        """The pixels of guided inputs, from 0 to 255."""
        pixels = ((x - self._low) / self._span).clamp(0, 1)
        with exact_kernels(), torch.enable_grad(), BatchStatistics(self._teacher) as statistics:
            parts = zip(pixels.split(self.batch), send(labels, x.device).split(self.batch), strict=True)
            guided = [self._guided(some, wanted, statistics) for some, wanted in parts]
        return torch.cat(guided).mul(LEVELS).round().to(torch.uint8)

    def _inputs(
        self, pixels: UInt8[Tensor, "inputs channels height width"]
    ) -> Float[Tensor, "inputs channels height width"]:
        return torch.addcmul(self._low, self._span, send(pixels, self._low.device) / LEVELS)

    def _guided(self, pixels: Tensor, labels: Tensor, statistics: BatchStatistics) -> Tensor:
        for _ in range(self.steps):
            pixels = self._step(pixels.detach().requires_grad_(), labels, statistics).detach()
        return pixels

    def _step(self, pixels: Tensor, labels: Tensor, statistics: BatchStatistics) -> Tensor:
        """A batch after one step; as it was where any gradient in it is not finite."""
        options = self._options
        x = torch.addcmul(self._low, self._span, pixels)
        logits = self._teacher(x.contiguous(memory_format=self._layout))
        statistics_loss = options.bn_weight * batch_norm_loss(moments_of(statistics), self._targets)
        label_loss = label_losses(logits, labels, options.label_smoothing)
        loss = statistics_loss + label_loss.mean() + pixel_loss(pixels, self._mean, 0.0, options.prior_weight)
        (gradient,) = torch.autograd.grad(loss * len(pixels), pixels)
        with torch.no_grad():
            direction = _over_scales(gradient)
            slope = (gradient * direction).sum((1, 2, 3)).clamp_min(TINY)
            length = (OVERSHOOT * (statistics_loss + label_loss) / slope).clamp(0, options.guide_rate)
            moved = (pixels - length[:, None, None, None] * direction).clamp(0, 1)
            return torch.where(moved.isfinite().all(), moved, pixels)


def _over_scales(
    gradient: Float[Tensor, "batch channels height width"], scales: int = MOST_SCALES
) -> Float[Tensor, "batch channels height width"]:
    """The sum of ``gradient`` at several scales, each half the one before it, and of a mean square of 1 in a sample."""
    whole = gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(TINY)
    height, width = gradient.shape[2:]
    half = height // 2, width // 2
    if scales == 1 or min(half) < SMALLEST_SIDE:
        return whole
    coarse = _over_scales(F.interpolate(gradient, size=half, mode="area"), scales - 1)
    return whole + F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)


def guide_for(teacher: nn.Module, generator: Ensemble, options: ZSCGANOptions) -> Guide | None:
    """A guide for samples of a generator that was not trained to its labels; ``options.guide_steps`` of 0 is none."""
    config = generator.config
    return None if config.labelled or not options.guide_steps else Guide(teacher, config.spec, options)
