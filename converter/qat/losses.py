"""What the student is trained for besides the teacher's outputs: its activations layer by layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Features = Sequence[Tensor]


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
