"""The divergence of a small error beside what the random directions of the heads say of it."""

import torch
from torch import Tensor

from converter.trust.task.base import Task
from converter.trust.task.heads import divergence, projection

DRAWS = 4000
SIZE = 1e-3
"""Of the error; its square is what the divergence leaves out."""


def measured_and_projected(task: Task, output: Tensor) -> tuple[float, float]:
    """The divergence that a random error of ``output`` makes, and half of the mean of ``(v . error)^2`` over draws.

    ``output`` is that of one input; the draws are a batch of its copies.
    """
    random = torch.Generator().manual_seed(0)
    error = SIZE * torch.randn(output.shape, generator=random, dtype=torch.float64)
    fp32 = output.double()
    measured = float(divergence(task.heads((fp32,)), task.heads((fp32 + error,))).mean())
    copies = fp32.repeat(DRAWS, *[1] * (fp32.dim() - 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(projection(task.heads((copies,)), random), copies)
    of_each = (gradient * error.repeat(DRAWS, *[1] * (error.dim() - 1))).flatten(1).sum(dim=1)
    return measured, float(of_each.square().mean()) / 2
