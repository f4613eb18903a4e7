"""The outputs of a network as distributions, so that the error of INT8 has a size: a divergence, in nats.

A detector's objectness is the logit of a yes or no, a classifier's logits are those of one choice among classes, a
coordinate is the mean of a normal distribution. Each of the three has its Kullback-Leibler divergence and its Fisher
information, and these are all that the choice of a calibrator, the sensitivity of layers and fine-tuning ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12
SMALLEST = 1e-150
"""Stands for probabilities of 0, whose quotients would be NaN; its square is still a float64."""


@dataclass(frozen=True)
class Head:
    """A part of the outputs, its second axis what belongs together, any others its positions (pixels, anchors).

    ``categorical``: logits of one choice. ``binary``: logits of so many independent ones. ``value``: means of normal
    distributions, whose common deviation is that of FP32's values. ``weights`` say how much each position counts;
    those of FP32 count. A ``soft`` head is compared at the temperature of ``spread`` where INT8 is judged.
    """

    kind: Literal["categorical", "binary", "value"]
    values: Float[Tensor, "batch part *positions"]
    weights: Float[Tensor, "batch *positions"] | None = None
    soft: bool = True


Heads = Sequence[Head]


def divergence(fp32: Heads, int8: Heads) -> Float[Tensor, "batch"]:
    """KL(FP32 || INT8) of each input in nats: the sum over the heads of the mean over their positions."""
    return torch.stack([_divergence(a, b, 1.0) for a, b in zip(fp32, int8, strict=True)]).sum(dim=0)


def softened_divergence(fp32: Heads, int8: Heads) -> Float[Tensor, "batch"]:
    """``divergence``, that of soft heads at the temperature that gives FP32's logits a spread of 1.

    At a temperature of 1 the few inputs of which the network is unsure decide alone; at this one all count, and
    networks with large and with small logits alike.
    """
    found = [_divergence(a, b, spread(a) if a.soft else 1.0) for a, b in zip(fp32, int8, strict=True)]
    return torch.stack(found).sum(dim=0)


def distillation_loss(student: Heads, teacher: Heads, temperature: float) -> Float[Tensor, ""]:
    """``T^2 KL(teacher || student)`` at temperature T, in nats averaged over the batch; of values at T = 1.

    T^2 keeps the gradients' size the same for every T (Hinton et al., arXiv 1503.02531).
    """
    found = []
    for wanted, given in zip(teacher, student, strict=True):
        t = 1.0 if wanted.kind == "value" else temperature
        found.append(_divergence(wanted, given, t).mean() * t**2)
    return torch.stack(found).sum()


def _divergence(reference: Head, other: Head, temperature: float) -> Float[Tensor, "batch"]:
    return _mean_over_positions(_nats(reference, other, temperature), reference.weights)


def spread(head: Head) -> float:
    """The standard deviation of an input's logits, averaged over the inputs; 1 for values."""
    if head.kind == "value":
        return 1.0
    axes = (1,) if head.kind == "categorical" else tuple(range(1, head.values.dim()))
    return max(float(head.values.double().std(dim=axes, correction=0).mean()), TINY)


def _nats(reference: Head, other: Head, temperature: float) -> Float[Tensor, "batch *positions"]:
    if reference.kind == "value":
        error = other.values - reference.values
        return error.square().sum(dim=1) / (2 * deviation(reference) ** 2)
    a, b = reference.values / temperature, other.values / temperature
    if reference.kind == "categorical":
        p, q = torch.log_softmax(a, dim=1), torch.log_softmax(b, dim=1)
        return (p.exp() * (p - q)).sum(dim=1)
    yes, no = torch.sigmoid(a), torch.sigmoid(-a)
    nats = yes * (F.logsigmoid(a) - F.logsigmoid(b)) + no * (F.logsigmoid(-a) - F.logsigmoid(-b))
    return nats.sum(dim=1)


def deviation(head: Head) -> float:
    """The standard deviation of a head's values, where they count."""
    values = head.values.detach().double()
    if head.weights is None:
        return max(float(values.std(correction=0)), TINY)
    weights = head.weights.detach().double().unsqueeze(1).expand_as(values)
    total = weights.sum().clamp_min(TINY)
    mean = (weights * values).sum() / total
    return max(float(((weights * (values - mean).square()).sum() / total).sqrt()), TINY)


def _mean_over_positions(
    nats: Float[Tensor, "batch *positions"], weights: Float[Tensor, "batch *positions"] | None
) -> Float[Tensor, "batch"]:
    if weights is not None:
        nats = nats * weights
    return nats.flatten(1).mean(dim=1) if nats.dim() > 1 else nats


def projection(heads: Heads, random: torch.Generator) -> Float[Tensor, ""]:
    """The sum over the batch of the heads' values times a random direction, to be differentiated.

    The direction ``v`` has mean 0 and the Fisher information of the heads as its covariance, so that half of the mean
    of ``(v . error)^2`` is the divergence that a small error makes.
    """
    return torch.stack([_projection(head, random) for head in heads]).sum()


def _projection(head: Head, random: torch.Generator) -> Float[Tensor, ""]:
    values = head.values.detach()
    signs = torch.randint(0, 2, values.shape, generator=random).to(values) * 2 - 1
    if head.kind == "categorical":
        # A position a row.
        rows = (x.movedim(1, -1).reshape(-1, x.shape[1]) for x in (values, signs))
        moved = values.movedim(1, -1)
        way = direction(*rows).view(moved.shape).movedim(-1, 1)
    elif head.kind == "binary":
        way = signs * (torch.sigmoid(values) * torch.sigmoid(-values)).sqrt()
    else:
        way = signs / deviation(head)
    if head.weights is not None:
        way = way * head.weights.detach().unsqueeze(1).sqrt()
    positions = max(1, values[0, 0].numel())
    projected: Tensor = (head.values * way).sum() / positions**0.5
    return projected


def direction(
    logits: Float[Tensor, "batch classes"], signs: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch classes"]:
    """``L s`` for ``L L' = diag(p) - p p'`` with ``p = softmax(logits)``: of mean 0 and that covariance over signs.

    L is the Cholesky factor with the classes in the order of their probability (Tanabe and Sagae, "An exact Cholesky
    decomposition and the generalized inverse of the variance-covariance matrix of the multinomial distribution",
    1992). With ``r_j`` the probability of the j-th class and all behind it:

        L_jj = sqrt(p_j r_j+1 / r_j),  L_ij = -p_i sqrt(p_j / (r_j r_j+1)) for i > j.

    So the largest terms come from few signs, which is what keeps ``(v . a)^2`` near its mean.
    """
    p, order = torch.softmax(logits.double(), dim=1).sort(dim=1, descending=True)
    rest = p.flip(1).cumsum(1).flip(1).clamp_min(SMALLEST)
    behind = torch.cat([rest[:, 1:], torch.zeros_like(rest[:, :1])], dim=1)
    own = signs * (p * behind / rest).sqrt()
    shared = signs[:, :-1] * (p[:, :-1] / rest[:, :-1] / behind[:, :-1]).sqrt()
    own[:, 1:] -= p[:, 1:] * shared.cumsum(1)
    return torch.zeros_like(own).scatter_(1, order, own).to(logits)
