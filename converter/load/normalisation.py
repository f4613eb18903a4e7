"""The pixels as a network saw them in training: their mean and deviation, read from its first layer without any data.

A batch norm behind the first convolution remembers mean and variance of ``y_o = sum_ck w_ock x_ck + bias_o`` over the
training images. With ``s_oc = sum_k w_ock`` the mean of ``y`` is ``s m + bias``, whose least-squares solution ``m`` is
the mean pixel; the variance is ``w' C w``, where ``C`` is the covariance of the pixels of a patch. That of natural
images is known but for its scale: ``deviation^2 * near^distance * colour^channels_apart`` (neighbouring pixels of
photographs correlate by 0.9 to 0.97, neighbouring channels by about 0.9). Both correlations are fitted with the scale.

Taps that lie on a border of zeros see no pixel: each sum is over the places of the output where the tap does.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calibrators.zscgan.batch_norm import batch_norm_layers
from converter.load.first_layer import FirstLayer, first_layer

_NEAR = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
_COLOUR = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
"""Correlations that are tried."""
_DEAD = 1e-6
"""Of the median filter's variance: a filter with less gives nothing."""
_ROUNDS, _OUTLIER = 10, 2.0
"""Of the reweighted least squares; deviations from which on an error counts less."""
_SPREAD, _ERROR = 0.2, 0.2
"""Largest misfit of the variances (as a factor's logarithm) and standard error of the mean, in deviations of the
pixels, of an estimate that says anything."""


@dataclass(frozen=True)
class NormalisationEstimate:
    """What the pixels were when they came to the network: the ``mean`` of each channel and one ``deviation``.

    ``r_squared`` is of the batch norm's means; it says little where the pixels' means are near zero. ``error`` and
    ``slope_error`` are the standard errors of the mean over the channels and of the ``slope``. ``spread`` is the mean
    difference of the logarithms of the filters' deviations from those of the fit; ``near`` and ``colour`` are the
    correlations that fit best.
    """

    mean: tuple[float, ...]
    deviation: float
    r_squared: float
    error: float
    slope_error: float
    spread: float
    near: float
    colour: float

    @property
    def slope(self) -> float:
        """The mean of the last channel less that of the first."""
        return self.mean[-1] - self.mean[0]

    @property
    def confident(self) -> bool:
        """Whether means and variances fit a normalised image at all."""
        return self.spread <= _SPREAD and self.error <= _ERROR * self.deviation


def estimate_normalisation(module: nn.Module, shape: tuple[int, int, int]) -> NormalisationEstimate | None:
    """The pixels for which ``module``, in eval mode, was trained; None where its first layer doesn't tell.

    It tells where a batch norm with its own statistics stands right behind the first convolution.
    """
    layer = first_layer(module, shape) if batch_norm_layers(module) else None
    return None if layer is None else estimate_from_layer(layer)


def estimate_from_layer(layer: FirstLayer) -> NormalisationEstimate | None:
    """The estimate from a first layer; None where too few of its filters are alive."""
    alive = layer.variance > _DEAD * layer.variance.median()
    sums = _Sums.of(layer, alive)
    filters, channels, _ = sums.weight.shape
    finite = all(bool(part.isfinite().all()) for part in (sums.weight, sums.mean, sums.variance))
    if filters < 2 * channels or not finite or torch.linalg.matrix_rank(sums.whole) < channels:
        return None
    mean, errors, r_squared = _mean_of(sums)
    deviation, spread, near, colour = _deviation_of(sums, layer, mean)
    return NormalisationEstimate(tuple(mean.tolist()), deviation, r_squared, *errors, spread, near, colour)


@dataclass(frozen=True)
class _Sums:
    """The filters that are alive as they meet the network's own input.

    ``whole`` is the sum of a filter over its taps for each channel, ``common`` the share of the places of the output
    where two taps both lie on the image, and ``mean`` what the batch norm remembers less all that isn't a pixel's.
    """

    weight: Float[Tensor, "filters channels taps"]
    whole: Float[Tensor, "filters channels"]
    common: Float[Tensor, "taps taps"]
    mean: Float[Tensor, "filters"]
    variance: Float[Tensor, "filters"]

    @classmethod
    def of(cls, layer: FirstLayer, alive: Tensor) -> "_Sums":
        raw = layer.weight[alive].flatten(2)
        inside = layer.inside.double()
        share, common = inside.mean(1), inside @ inside.T / inside.shape[1]
        weight = torch.einsum("ock,ci->oik", raw, layer.matrix)
        constant = layer.bias[alive] + torch.einsum("ock,c,k->o", raw, layer.offset, share)
        return cls(weight, weight @ share, common, layer.mean[alive] - constant, layer.variance[alive])


def _mean_of(sums: _Sums) -> tuple[Float[Tensor, "channels"], tuple[float, float], float]:
    """The mean pixel, the standard errors of its average and of its slope, and R² of the batch norm's means."""
    scale = sums.variance.sqrt()
    weight = 1 / scale
    for _ in range(_ROUNDS):
        left = sums.whole * weight[:, None]
        mean = torch.linalg.lstsq(left, (sums.mean * weight)[:, None]).solution[:, 0]
        rest = (sums.mean - sums.whole @ mean) / scale
        usual = _OUTLIER * 1.4826 * rest.abs().median() + 1e-9
        weight = 1 / (scale * (1 + (rest / usual) ** 2).sqrt())
    residual = sums.mean - sums.whole @ mean
    freedom = max(1, len(scale) - len(mean))
    covariance = torch.linalg.pinv(left.T @ left) * ((residual * weight) ** 2).sum() / freedom
    total = ((sums.mean - sums.mean.mean()) ** 2).sum().clamp_min(1e-30)
    slope = torch.zeros_like(mean)
    slope[-1], slope[0] = slope[-1] + 1, slope[0] - 1
    contrasts = torch.full_like(mean, 1 / len(mean)), slope
    error, slope_error = (float((by @ covariance @ by).clamp_min(0).sqrt()) for by in contrasts)
    return mean, (error, slope_error), float(1 - (residual**2).sum() / total)


def _deviation_of(
    sums: _Sums, layer: FirstLayer, mean: Float[Tensor, "channels"]
) -> tuple[float, float, float, float]:
    """The pixels' deviation, the misfit, and the correlations of neighbouring pixels and channels."""
    channels = sums.weight.shape[1]
    ys, xs = (
        torch.arange(size) * step for size, step in zip(layer.weight.shape[2:], layer.dilation, strict=True)
    )
    taps = torch.cartesian_prod(ys.double(), xs.double())
    distance = torch.cdist(taps, taps)
    apart = (torch.arange(channels)[:, None] - torch.arange(channels)).abs()
    variance = _pixels_variance(sums, mean)
    best = (1.0, torch.inf, 0.0, 0.0)
    for near, colour in product(_NEAR, _COLOUR if channels > 1 else (1.0,)):
        # w' C w for each filter, C being the product of both correlations.
        seen = colour ** apart.double() @ (sums.weight @ (sums.common * near**distance))
        log = 0.5 * (variance / (sums.weight * seen).sum((1, 2)).clamp_min(1e-30)).log()
        spread = float((log - log.median()).abs().clamp_max(0.5).mean())
        if spread < best[1]:
            best = float(log.median().exp()), spread, near, colour
    return best


def _pixels_variance(sums: _Sums, mean: Float[Tensor, "channels"]) -> Float[Tensor, "filters"]:
    """The variances less what the border of zeros adds: there the mean of the output is another."""
    at_taps = torch.einsum("ock,c->ok", sums.weight, mean)
    share = sums.common.diagonal()
    border = torch.einsum("ok,ol,kl->o", at_taps, at_taps, sums.common - share[:, None] * share)
    return (sums.variance - border).clamp_min(0.05 * sums.variance)
