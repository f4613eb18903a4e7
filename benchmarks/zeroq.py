"""ZeroQ's distilled images (Cai et al., arXiv 2001.00281): the pixels themselves are optimised."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calibrators.zscgan.batch_norm import batch_norm_layers

EPS = 1e-6
LEARNING_RATE, LEAST_RATE, PATIENCE = 0.1, 1e-4, 100
INITIAL_BOUND = 127.5 / 5418.75
STOP_PER_LAYER = 5.0


def image_moments(
    x: Float[Tensor, "batch channels *spatial"],
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels"]]:
    """Mean and standard deviation of each channel of each image."""
    values = x.flatten(2)
    return values.mean(2), (values.var(2, correction=0) + EPS).sqrt()


def distilled(
    teacher: nn.Module,
    shape: tuple[int, int, int],
    batch: int,
    iterations: int,
    seed: int,
    stop: float = STOP_PER_LAYER,
) -> tuple[Float[Tensor, "batch channels height width"], int]:
    """``batch`` images in the normalised domain on the teacher's device, and the iterations that were done.

    With mean m and deviation s of each batch norm, the loss is the sum over batch norms and images of the mean
    over channels of ``(m_image - m)² + (s_image - s)²`` at its input; the input itself counts with mean 0 and
    deviation 1, averaged over the images. As in the authors' code (github.com/amirgholami/ZeroQ): Adam 0.1, a
    tenth of it after 100 iterations without progress, a start from uniform noise within ±0.024, an early stop at
    a loss of ``stop`` a layer (0: none), no bounds on the pixels, no labels. Departure: the biased variance, as
    maps of one pixel have no other. Raises ValueError for a network without batch norm.
    """
    layers = batch_norm_layers(teacher)
    if not layers:
        raise ValueError("expected batch norms with stored statistics, got a network with no batch norm")
    device = next(teacher.parameters()).device
    random = torch.Generator().manual_seed(seed)
    start = (torch.rand(batch, *shape, generator=random) * 2 - 1) * INITIAL_BOUND
    x = start.to(device).requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=LEAST_RATE, patience=PATIENCE)
    seen: list[Tensor] = []
    handles = [layer.register_forward_pre_hook(_loss_hook(layer, seen)) for layer in layers.values()]
    done, wanted = 0, (len(layers) + 1) * stop
    loss = torch.tensor(torch.inf)
    try:
        while done < iterations and loss.item() > wanted:
            seen.clear()
            optimizer.zero_grad()
            teacher(x)
            mean, std = image_moments(x)
            own = (mean.square() + (std - 1).square()).sum() / batch
            loss = own + torch.stack(seen).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step(loss.item())
            done += 1
    finally:
        for handle in handles:
            handle.remove()
    return x.detach(), done


def _loss_hook(layer: Any, losses: list[Tensor]) -> Any:
    target_mean = layer.running_mean.detach()
    target_std = (layer.running_var.detach() + EPS).sqrt()

    def compare(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, std = image_moments(inputs[0])
        squares = (mean - target_mean).square() + (std - target_std).square()
        losses.append(squares.mean(1).sum())

    return compare
