"""The losses of ZS-CGAN: the samples' labels, their batch-norm statistics, their variety, and an image prior."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from calibrators.zscgan.batch_norm import Moments, Target, join_moments, joined_target

PIXELS_AT_ONCE = 1 << 17
"""Values of the samples that are looked at together on a CPU: 512 KiB, which stay in the cache."""
LEAST_DIFFERENCE = 1e-4
"""Added to the difference of two samples, whose logarithm is taken."""


def gaussian_kl(moments: Moments, target: Target) -> Float[Tensor, "channels"]:
    """KL(N(mean, var) || N(target mean, target var)) of each channel, in nats.

    ``((m - t)^2 + v) / (2 u) - log(v / u) / 2 - 1/2`` with both variances raised by the layer's eps, as
    batch norm itself does (arXiv 2005.04136, section 3). Without the floor a stored variance of 1e-26,
    which real checkpoints have, makes it infinite.
    """
    mean, variance = moments
    variance, target_variance = variance + target.eps, target.variance + target.eps
    ratio = variance / target_variance
    return ((mean - target.mean) ** 2 / target_variance + ratio - torch.log(ratio) - 1) / 2


def batch_norm_loss(moments: Mapping[str, Moments], targets: Mapping[str, Target]) -> Float[Tensor, ""]:
    """Mean over the layers of the mean over the channels of ``gaussian_kl``; at least one layer."""
    target = joined_target([targets[name] for name in moments])
    kl = gaussian_kl(join_moments(moments), target)
    return torch.stack([part.mean() for part in kl.split([len(mean) for mean, _ in moments.values()])]).mean()


def label_losses(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], smoothing: float
) -> Float[Tensor, "batch"]:
    """Cross entropy of each sample to its softened label, in nats above its minimum.

    Soft labels end the pull once a sample is classified well: pressed to zero, the hard cross entropy
    inflates the activations of the last layers.
    """
    classes = logits.shape[1]
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    soft = torch.full((classes,), smoothing / classes, device=logits.device)
    soft[0] += 1 - smoothing
    entropy: Tensor = torch.special.entr(soft).sum()
    return losses - entropy


def label_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], smoothing: float
) -> Float[Tensor, ""]:
    """The mean of ``label_losses``."""
    return label_losses(logits, labels, smoothing).mean()


class _PixelLoss(torch.autograd.Function):
    """The loss and its gradient, found together: on a CPU for a few pairs at once, while they are in the cache."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, mean: Tensor, variety: float, prior: float) -> Tensor:
        at_once = 2 * (
            max(1, PIXELS_AT_ONCE // pixels[:2].numel()) if pixels.device.type == "cpu" else len(pixels)
        )
        width, values = pixels.shape[3], pixels.numel()
        rows = pixels.permute(0, 2, 3, 1).flatten(2)  # of whole pixels
        gradient, total = torch.empty_like(rows), pixels.new_zeros(())
        for x, slope in zip(rows.split(at_once), gradient.split(at_once), strict=True):
            total += _prior_with_slope(x, mean, width, prior / values, slope)
            if variety:
                total += _sameness_with_slope(x, 2 * variety / len(pixels), slope)
        ctx.save_for_backward(gradient.unflatten(2, (width, -1)).permute(0, 3, 1, 2))
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


def _prior_with_slope(x: Tensor, mean: Tensor, width: int, factor: float, slope: Tensor) -> Tensor:
    """``factor`` times the sum over the values of the image prior; its gradient is written to ``slope``."""
    off = x - mean.repeat(width)
    torch.mul(off, 2 * factor / 3, out=slope)
    total = off.square_().sum() / 3
    for dim, step in ((1, 1), (2, len(mean))):
        size = x.shape[dim] - step
        if size < 1:
            continue
        rise = x.narrow(dim, step, size) - x.narrow(dim, 0, size)
        slope.narrow(dim, step, size).add_(rise, alpha=2 * factor)
        slope.narrow(dim, 0, size).sub_(rise, alpha=2 * factor)
        total += rise.square_().sum()
    return factor * total


def _sameness_with_slope(x: Tensor, factor: float, slope: Tensor) -> Tensor:
    """``factor`` times the sum over the pairs of the loss of sameness; its gradient is added to ``slope``."""
    pairs, slopes = (some.unflatten(0, (-1, 2)) for some in (x, slope))
    apart = pairs[:, 0] - pairs[:, 1]
    signs = apart.sign()
    difference = apart.abs_().mean((1, 2)) + LEAST_DIFFERENCE
    pull = signs.mul_((factor / (difference * apart[0].numel()))[:, None, None])
    slopes[:, 0].sub_(pull)
    slopes[:, 1].add_(pull)
    return -factor * torch.log(difference).sum()


def pixel_loss(
    pixels: Float[Tensor, "batch channels height width"],
    mean: Float[Tensor, "channels"],
    variety: float,
    prior: float,
) -> Float[Tensor, ""]:
    """The losses of pairs of samples that the classifier has no part in, weighted; differentiable once.

    ``variety`` is the weight of ``-log`` of the mean absolute difference of the two samples of a pair, averaged over
    the pairs. Both have one class and two latent vectors; pixels are in [0, 1]. Labels and statistics alone are met by
    one picture a class. As the difference grows the pull fades, and the statistics decide (after the mode-seeking loss
    of Mao et al., arXiv 1903.05628, which takes 1/difference). With a weight of 0 there need be no pairs.

    ``prior`` is the weight of the image prior: how unlike photographs of that ``mean`` the samples are, rough and
    glaring. It is the mean squared difference of neighbours, and a third of the mean squared distance from ``mean``:
    what the batch norms can't see is free otherwise (after the priors of DeepInversion, Yin et al., arXiv 1912.08795).
    """
    result: Tensor = _PixelLoss.apply(pixels, mean, variety, prior)
    return result
