"""What the student is trained for: the teacher's probabilities, and its activations layer by layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Features = Sequence[Tensor]


def distillation_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """``T^2 KL(teacher || student)`` of the probabilities at temperature T, in nats averaged over the batch.

    T^2 keeps the gradients' size the same for every T (Hinton et al., arXiv 1503.02531).
    """
    p, q = (log_probabilities(logits / temperature) for logits in (teacher, student))
    return F.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


def log_probabilities(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch atleast2"]:
    """Logarithms of the class probabilities; a single logit stands for two classes."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return torch.log_softmax(logits, dim=1)


def noise_to_signal(
    student: Features, teacher: Features, power: Float[Tensor, "features"]
) -> Float[Tensor, ""]:
    """Mean over the features of their mean squared error over ``power``, the mean square of the teacher's."""
    errors = torch.stack([(s - t).square().mean() for s, t in zip(student, teacher, strict=True)])
    return (errors / power).mean()


def mean_squares(features: Features) -> Float[Tensor, "features"]:
    """The mean square of each feature, at least the smallest normal number."""
    squares = torch.stack([feature.detach().square().mean() for feature in features])
    return squares.clamp_min(torch.finfo(squares.dtype).tiny)
