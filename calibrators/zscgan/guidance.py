"""Guidance: a few gradient steps on the pixels of samples, toward their classes and the batch norms' statistics."""

from hashlib import sha256

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from calibrators.data.batches import send
from calibrators.data.input_spec import InputSpec
from calibrators.kernels import exact_kernels
from calibrators.zscgan.batch_norm import BatchStatistics, Moments, targets_from_model
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
GUIDED, MOST_CHOICES = 128, 8
"""How many samples have different classes by default, as many as calibrate with 128 procedural images, and how many
classes each chooses from at most."""
UNLIKELY = -1e30
"""In place of the log probability of a class that is not a number."""


class Guide:
    """Optimizes the pixels of a generator's samples toward classes, in at most ``options.guide_steps`` gradient steps.

    A batch ends earlier once all have their class; in the last step those that have it stay. Classes are given to the
    samples that are nearest to them, of those in ``classes_to_choose_from``. The steps go down the losses of the
    training but variety (as DeepInversion does from noise in thousands of steps, Yin et al., arXiv 1912.08795). The
    direction is the gradient at several scales, each of the same strength, so that a step changes shapes and not only
    single pixels (the normalised gradients of DeepDream, Mordvintsev et al., 2015). With ``f`` the losses of statistics
    and label, ``g`` their gradient and ``d`` the direction, the length is ``OVERSHOOT * f / (g . d)``, at most
    ``options.guide_rate``: Polyak's step, at which a linear ``f`` would be zero.

    ``teacher`` gives logits, is frozen and in eval mode. Samples are guided in batches of ``batch``, whose statistics
    count, each without regard to the others. The first ``count`` samples have different classes, as far as there are
    so many.
    """

    def __init__(
        self, teacher: nn.Module, spec: InputSpec, options: ZSCGANOptions, count: int = GUIDED
    ) -> None:
        self._teacher, self._layout = fastest_form(teacher, spec.shape)
        self._targets = targets_from_model(self._teacher)
        self._options, self.steps, self._count = options, options.guide_steps, count
        self.batch = options.batch_for(*spec.shape[1:])
        device = next(teacher.parameters()).device
        low, high = (torch.tensor(side, device=device).view(1, -1, 1, 1) for side in (spec.low, spec.high))
        self._low, self._span, self._mean = low, high - low, mean_pixel(spec).to(device)
        self._kept: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._room = MOST_KEPT

    @property
    def key(self) -> str:
        """A name for what it does, beside the network."""
        steps = f"{self.steps} x {self._options.guide_rate:g} in batches of {self.batch}"
        return f"{steps} to the nearest classes of {self._count} samples"

    def samples(
        self, generator: Ensemble, z: Float[Tensor, "inputs latent"], conditions: Int[Tensor, "inputs 2"]
    ) -> tuple[Float[Tensor, "inputs channels height width"], Int[Tensor, "inputs"]]:
        """Guided samples of ``generator`` and their classes; kept, while there is room, to be asked for again.

        A guide serves one generator.
        """
        key = sha256(z.cpu().numpy().tobytes() + conditions.numpy().tobytes()).digest()
        if key in self._kept:
            pixels, labels = self._kept[key]
            return self._inputs(pixels), labels
        with torch.no_grad(), exact_kernels():
            x = generator(z, conditions)
        classes = generator.config.classes
        width = max(1, min(classes // self._count, classes // self.batch, MOST_CHOICES))
        choices = classes_to_choose_from(generator.config.labels(), conditions[:, 1], width)
        pixels, labels = (part.cpu() for part in self(x, choices))
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[key] = pixels, labels
        return self._inputs(pixels), labels

    def __call__(
        self, x: Float[Tensor, "inputs channels height width"], choices: Int[Tensor, "inputs choices"]
    ) -> tuple[UInt8[Tensor, "inputs channels height width"], Int[Tensor, "inputs"]]:
        """The pixels of guided inputs, from 0 to 255, and their classes.

        Of the ``choices`` of a batch's inputs, any may be that of any other, but each is taken once at most.
        """
        pixels = ((x - self._low) / self._span).clamp(0, 1)
        with exact_kernels(), torch.enable_grad(), BatchStatistics(self._teacher) as statistics:
            parts = zip(pixels.split(self.batch), choices.split(self.batch), strict=True)
            guided, labels = zip(*(self._guided(*part, statistics) for part in parts), strict=True)
        return torch.cat(guided).mul(LEVELS).round().to(torch.uint8), torch.cat(labels)

    def _inputs(
        self, pixels: UInt8[Tensor, "inputs channels height width"]
    ) -> Float[Tensor, "inputs channels height width"]:
        return torch.addcmul(self._low, self._span, send(pixels, self._low.device) / LEVELS)

    def _guided(self, pixels: Tensor, choices: Tensor, statistics: BatchStatistics) -> tuple[Tensor, Tensor]:
        """A batch after its steps, and its classes."""
        labels = choices[:, 0]
        for step in range(self.steps):
            pixels.requires_grad_()
            x = torch.addcmul(self._low, self._span, pixels)
            logits = self._teacher(x.contiguous(memory_format=self._layout))
            moments = moments_of(statistics)
            if step == 0:
                labels = nearest_classes(logits.detach(), choices.flatten())
            elif has_classes(logits, labels):
                break
            moved = self._moved(pixels, logits, labels, moments)
            if 0 < step == self.steps - 1:  # no step would follow that brings a lost class back
                moved = torch.where(of_class(logits, labels)[:, None, None, None], pixels.detach(), moved)
            pixels = moved
        return pixels.detach(), labels

    def _moved(self, pixels: Tensor, logits: Tensor, labels: Tensor, moments: dict[str, Moments]) -> Tensor:
        """A batch after one step, by its logits and moments; as it was where any gradient in it is not finite."""
        options = self._options
        statistics_loss = options.bn_weight * batch_norm_loss(moments, self._targets)
        label_loss = label_losses(logits, send(labels, logits.device), options.label_smoothing)
        loss = statistics_loss + label_loss.mean() + pixel_loss(pixels, self._mean, 0.0, options.prior_weight)
        (gradient,) = torch.autograd.grad(loss * len(pixels), pixels)
        with torch.no_grad():
            direction = _over_scales(gradient)
            slope = (gradient * direction).sum((1, 2, 3)).clamp_min(TINY)
            length = (OVERSHOOT * (statistics_loss + label_loss) / slope).clamp(0, options.guide_rate)
            moved = (pixels - length[:, None, None, None] * direction).clamp(0, 1)
            return torch.where(moved.isfinite().all(), moved, pixels)


def classes_to_choose_from(
    order: Int[Tensor, "classes"], labels: Int[Tensor, "samples"], choices: int
) -> Int[Tensor, "samples choices"]:
    """Classes of which each sample may be, given those that its condition names.

    All conditions name the classes in their ``order``; here so many stand for each, those that are next. So a class may
    be chosen as often as any other.
    """
    places = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))[labels]
    return order[(places[:, None] * choices + torch.arange(choices)) % len(order)]


def nearest_classes(
    logits: Float[Tensor, "samples classes"], choices: Int[Tensor, "choices"]
) -> Int[Tensor, "samples"]:
    """One of the ``choices`` for each sample, no choice twice; the likeliest pair of both is the first to be taken."""
    scores = logits.float().cpu().log_softmax(1)[:, choices].nan_to_num(UNLIKELY, neginf=UNLIKELY)
    found = torch.empty(len(logits), dtype=torch.long)
    for _ in range(len(logits)):
        sample, place = divmod(int(scores.argmax()), len(choices))
        found[sample] = choices[place]
        scores[sample], scores[:, place] = -torch.inf, -torch.inf
    return found


def has_classes(logits: Float[Tensor, "samples classes"], labels: Int[Tensor, "samples"]) -> bool:
    """Whether all of a batch are of their classes already."""
    return bool(of_class(logits, labels).all())


def of_class(
    logits: Float[Tensor, "samples classes"], labels: Int[Tensor, "samples"]
) -> Bool[Tensor, "samples"]:
    """Which samples are of their classes."""
    return logits.argmax(1) == send(labels, logits.device)


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


def guide_for(
    teacher: nn.Module, generator: Ensemble, options: ZSCGANOptions, count: int = GUIDED
) -> Guide | None:
    """A guide for samples of a generator that was not trained to its labels; ``options.guide_steps`` of 0 is none."""
    config = generator.config
    return None if config.labelled or not options.guide_steps else Guide(teacher, config.spec, options, count)
