"""The losses of ZS-CGAN: the samples' labels, their batch-norm statistics, their variety, and an image prior."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from calibrators.zscgan.batch_norm import Moments, Target, join_moments, joined_target


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


def label_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], smoothing: float
) -> Float[Tensor, ""]:
    """Cross entropy to softened labels, in nats above its minimum.

    Soft labels end the pull once a sample is classified well: pressed to zero, the hard cross entropy
    inflates the activations of the last layers.
    """
    classes = logits.shape[1]
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    soft = torch.full((classes,), smoothing / classes, device=logits.device)
    soft[0] += 1 - smoothing
    entropy: Tensor = torch.special.entr(soft).sum()
    return loss - entropy


def sameness_loss(pixels: Float[Tensor, "pairs two channels height width"]) -> Float[Tensor, ""]:
    """``-log`` of the mean absolute difference of the two samples of a pair, averaged over the pairs.

    Both samples of a pair have one class and two latent vectors; pixels are in [0, 1]. Labels and statistics
    alone are met by one picture a class. As the difference grows the pull fades, and the statistics decide
    (after the mode-seeking loss of Mao et al., arXiv 1903.05628, which takes 1/difference).
    """
    difference = (pixels[:, 0] - pixels[:, 1]).abs().flatten(1).mean(1)
    return -torch.log(difference + 1e-4).mean()


def image_prior(
    pixels: Float[Tensor, "batch channels height width"], mean: Float[Tensor, "channels"]
) -> Float[Tensor, ""]:
    """How unlike photographs of that ``mean`` the samples are, rough and glaring; pixels are in [0, 1].

    The mean squared difference of neighbours, and a third of the mean squared distance from ``mean``: what the batch
    norms can't see is free otherwise (after the priors of DeepInversion, Yin et al., arXiv 1912.08795).
    """
    rough = sum(pixels.diff(dim=dim).square().sum() for dim in (2, 3)) / pixels.numel()
    return rough + (pixels - mean[:, None, None]).square().mean() / 3
