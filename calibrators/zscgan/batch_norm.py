"""Batch-norm statistics: what the classifier remembers of its data, and what a batch gives in its place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from calibrators.distributed import Ranks, parts_with_gradient
from calibrators.zscgan import blocks

Moments = tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]]
"""Mean and biased variance of each channel."""

Joined = tuple[Float[Tensor, "every_channel"], Float[Tensor, "every_channel"]]
"""The same of all layers, one behind the other."""


class _BatchMoments(torch.autograd.Function):
    """Mean and biased variance in one pass, with the gradient in one pass: dx = (dm + 2 dv (x - m)) / n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = moments_of_values(x)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> Tensor:  # type: ignore[override]
        x, mean = ctx.saved_tensors
        shape = (1, -1) + (1,) * (x.dim() - 2)
        slope, offset = _moments_slope(x, mean, grad_mean, grad_variance)
        return torch.addcmul(offset.view(shape), x, slope.view(shape))


def moments_of_values(x: Float[Tensor, "batch channels *spatial"]) -> Moments:
    """``batch_moments`` without a gradient."""
    if blocks.fits_blocks(x):
        return blocks.moments(x)
    # One Welford pass over any memory format; var_mean takes 15 times as long on channels_last.
    zeros = x.new_zeros(x.shape[1])
    mean, variance = torch.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)
    return mean, variance


class _MeasuredNorm(torch.autograd.Function):
    """A batch norm by stored statistics, as ``scale`` and ``shift``, and the moments of its input, in two passes.

    The gradient takes one pass, where batch norm's own, that of the moments and their sum take five.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = blocks.moments(x)
        ctx.save_for_backward(x, mean, scale)
        return blocks.scaled(x, scale[None], shift[None]), mean, variance

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor, grad_mean: Tensor, grad_variance: Tensor
    ) -> tuple[Tensor, None, None]:
        x, mean, scale = ctx.saved_tensors
        slope, offset = _moments_slope(x, mean, grad_mean, grad_variance)
        return blocks.Gradient(grad).combined(x, scale[None], slope[None], offset[None]), None, None


def _moments_slope(
    x: Tensor, mean: Tensor, grad_mean: Tensor, grad_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """What the gradient of ``x`` by its moments is of each channel: a slope times ``x``, and an offset."""
    slope = grad_variance * (2 * x.shape[1] / x.numel())
    return slope, grad_mean * (x.shape[1] / x.numel()) - slope * mean


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


def is_plain(layer: _BatchNorm) -> bool:
    """Whether the layer's forward is batch norm by its running statistics and nothing else."""
    plain = type(layer).forward is _BatchNorm.forward and not layer.training
    return (plain or isinstance(layer, FrozenBatchNorm)) and "forward" not in vars(layer)


class FrozenBatchNorm(_BatchNorm):
    """A batch norm that uses its running statistics, in train mode too; it takes inputs of any rank."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


@torch.no_grad()
def as_scale_and_shift(layer: _BatchNorm) -> Moments:
    """What a batch norm by its running statistics multiplies each channel by, and then adds."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    scale = (layer.running_var + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight
    shift = -layer.running_mean * scale
    return scale, shift if layer.bias is None else shift + layer.bias


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

    A layer that is nothing but a batch norm by its statistics is computed together with them, where that is faster.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers = batch_norm_layers(module)
        self._calls: dict[str, list[Moments]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "BatchStatistics":
        for name, layer in self._layers.items():
            if is_plain(layer):
                vars(layer)["forward"] = self._forward(name, layer)
            else:
                self._handles.append(layer.register_forward_pre_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        for layer in self._layers.values():
            vars(layer).pop("forward", None)
        self._handles.clear()
        self._calls.clear()

    def _hook(self, name: str) -> Any:
        def measure(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._calls.setdefault(name, []).append(batch_moments(inputs[0]))

        return measure

    def _forward(self, name: str, layer: _BatchNorm) -> Any:
        scale, shift = as_scale_and_shift(layer)
        usual, measure = layer.forward, self._hook(name)

        def forward(x: Tensor) -> Any:
            if not blocks.fits_blocks(x):
                measure(layer, (x,))
                return usual(x)
            y, mean, variance = _MeasuredNorm.apply(x, scale, shift)
            self._calls.setdefault(name, []).append((mean, variance))
            return y

        return forward

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
