"""Batch-norm statistics: what the classifier remembers of its data, and what a batch gives in its place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from calibrators.distributed import Ranks, parts_with_gradient

Moments = tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]]
"""Mean and biased variance of each channel."""

Joined = tuple[Float[Tensor, "every_channel"], Float[Tensor, "every_channel"]]
"""The same of all layers, one behind the other."""


class _BatchMoments(torch.autograd.Function):
    """Mean and biased variance in one pass, with the gradient in one pass: dx = (dm + 2 dv (x - m)) / n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        # One Welford pass over any memory format; var_mean takes 15 times as long on channels_last.
        zeros = x.new_zeros(x.shape[1])
        mean, variance = torch.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:  # type: ignore[override]
        x, mean = ctx.saved_tensors
        shape = (1, -1) + (1,) * (x.dim() - 2)
        slope = grad_variance * (2 * x.shape[1] / x.numel())
        offset = grad_mean * (x.shape[1] / x.numel()) - slope * mean
        return torch.addcmul(offset.view(shape), x, slope.view(shape))


def batch_moments(x: Float[Tensor, "batch channels *spatial"]) -> Moments:
    """Mean and biased variance of each channel over batch and space, differentiable once."""
    mean, variance = _BatchMoments.apply(x)
    return mean, variance


def batch_norm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> batch-norm layer, of those that hold running statistics."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


@dataclass(frozen=True)
class Target:
    """What a layer remembers: mean, variance and the eps that floors both variances, one for each channel or all."""

    mean: Float[Tensor, "channels"]
    variance: Float[Tensor, "channels"]
    eps: float | Float[Tensor, "channels"]


def targets_from_model(module: nn.Module) -> dict[str, Target]:
    """The running statistics of every batch-norm layer."""
    targets = {}
    for name, layer in batch_norm_layers(module).items():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        targets[name] = Target(layer.running_mean.detach(), layer.running_var.detach(), layer.eps)
    return targets


class BatchStatistics:
    """Context manager that measures the input of every batch-norm layer in each forward pass.

    Inside it, ``moments()`` gives layer name -> moments of the last forward pass; a layer that runs
    several times gives the moments of all its inputs together. Leaving it removes the hooks.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = batch_norm_layers(module)
        self._calls: dict[str, list[Moments]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "BatchStatistics":
        for name, layer in self._layers.items():
            self._handles.append(layer.register_forward_pre_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def _hook(self, name: str) -> Any:
        def measure(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._calls.setdefault(name, []).append(batch_moments(inputs[0]))

        return measure

    def moments(self) -> dict[str, Moments]:
        """Moments of the last forward pass; forgets them."""
        calls, self._calls = self._calls, {}
        return {name: merge_moments(parts) for name, parts in calls.items()}


def merge_moments(parts: Iterable[Moments]) -> Moments:
    """Moments of equally large sets put together."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    mean = torch.stack([m for m, _ in parts]).mean(0)
    variance = torch.stack([v + (m - mean) ** 2 for m, v in parts]).mean(0)
    return mean, variance


def joined_target(targets: Iterable[Target]) -> Target:
    """What all layers remember in one, layer after layer."""
    targets = list(targets)
    mean, variance = torch.cat([t.mean for t in targets]), torch.cat([t.variance for t in targets])
    if len({target.eps for target in targets}) == 1:
        return Target(mean, variance, targets[0].eps)
    return Target(mean, variance, torch.cat([torch.zeros_like(t.mean) + t.eps for t in targets]))


def join_moments(moments: Mapping[str, Moments]) -> Joined:
    """The moments of all layers in two tensors, layer after layer: one GPU kernel then does what many would."""
    mean, variance = (torch.cat(kind) for kind in zip(*moments.values(), strict=True))
    return mean, variance


def split_moments(moments: Joined, layers: Mapping[str, Moments]) -> dict[str, Moments]:
    """``join_moments`` undone: the moments of each of ``layers``, which have as many channels."""
    channels = [len(mean) for mean, _ in layers.values()]
    return dict(zip(layers, zip(*(kind.split(channels) for kind in moments), strict=True), strict=True))


def moments_over_ranks(moments: dict[str, Moments], ranks: Ranks) -> dict[str, Moments]:
    """Moments of the batch that the ranks hold in equal parts, of all layers in one message; differentiable."""
    if ranks.world == 1 or not moments:
        return moments
    ours = torch.stack(join_moments(moments))
    merged = merge_moments((part[0], part[1]) for part in parts_with_gradient(ours, ranks))
    return split_moments(merged, moments)


def value_of(average: Tensor, newest: Tensor) -> Tensor:
    """``average`` with the gradient of ``newest``."""
    return average + (newest - newest.detach())


class MovingMoments:
    """Moments averaged over about ``window`` samples, with the gradient of the newest batch.

    A batch of 16 can't have the statistics of 1,000 classes; the average over several batches can.
    mean and E[x^2] are averaged with decay ``1 - batch / window`` and a bias correction as in Adam. The
    gradient is that of the newest batch undiminished: scaled by its share in the average, it would lose
    against the other losses (16-fold for batches of 16 and a window of 256).
    """

    def __init__(self, batch: int, window: int) -> None:
        self.decay = max(0.0, 1.0 - batch / window)
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._weight = 0.0
        self._newest = self._sums, self._weight

    def update(self, moments: dict[str, Moments]) -> tuple[dict[str, Moments], Bool[Tensor, ""]]:
        """The averages including this batch, and whether all are finite; see ``keep``."""
        weight = self.decay * self._weight + (1 - self.decay)
        mean, variance = join_moments(moments)
        old_mean, old_square = join_moments(
            {name: self._sum(name, like) for name, (like, _) in moments.items()}
        )
        with torch.no_grad():
            sum_mean = self.decay * old_mean + (1 - self.decay) * mean
            sum_square = self.decay * old_square + (1 - self.decay) * (variance + mean * mean)
            new_mean, new_square = sum_mean / weight, sum_square / weight
            new_variance = (new_square - new_mean * new_mean).clamp_min(0)
            finite = torch.stack([sum_mean, sum_square]).isfinite().all()
        self._newest = split_moments((sum_mean, sum_square), moments), weight
        averages = value_of(new_mean, mean), value_of(new_variance, variance)
        return split_moments(averages, moments), finite

    def keep(self) -> None:
        """Let the newest batch stay in the averages; one that is not finite must not.

        A function of its own, as the caller reads ``finite`` together with other numbers: each read waits for the GPU.
        """
        self._sums, self._weight = self._newest

    def _sum(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of a layer so far, on the device of ``like``: a restored state lies on the CPU."""
        if name not in self._sums:
            return torch.zeros_like(like), torch.zeros_like(like)
        mean, square = self._sums[name]
        return mean.to(like.device), square.to(like.device)

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs to go on."""
        return {"weight": self._weight, "sums": self._sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._weight, self._sums = state["weight"], dict(state["sums"])
