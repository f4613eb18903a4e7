"""The amax of each fake quantizer: learned for activations, that of the current values for weights."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calibrators.ranges.amax import memory_axes
from converter.qat.quantizers import QuantizerSpec, amax_of
from converter.quantize.weight_scales import min_scales, weight_scales


class ActivationRange(nn.Module):
    """A quantizer whose amax is ``start * exp(log_ratio)``; ``refresh`` writes it there.

    NVIDIA's quantizers take amax as a constant. Here the quantizer computes the forward pass, and the gradient of
    ``log amax`` is that of LSQ (arXiv 1902.08153): with ``y = amax / L * clip(round(x * L / amax))`` and the round
    straight through, ``dy / d log amax`` is ``y - x`` inside the range and ``y`` outside.
    """

    def __init__(self, quantizer: nn.Module, spec: QuantizerSpec, start: float, learned: bool) -> None:
        super().__init__()
        self.quantizer, self.spec = quantizer, spec
        self.log_ratio = nn.Parameter(torch.zeros(()), requires_grad=learned)
        self.start: Tensor
        self.register_buffer("start", torch.tensor(start))

    @property
    def amax(self) -> Float[Tensor, ""]:
        """The range as it is now."""
        return self.start * self.log_ratio.detach().exp()

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Size of a step."""
        return self.amax / self.spec.levels

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the quantizer the range as it is now."""
        amax_of(self.quantizer).copy_(self.amax)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.log_ratio.requires_grad:
            return quantized(x, self.quantizer)
        result: Tensor = _Learned.apply(x, self.log_ratio, self.quantizer)
        return result


class _Learned(torch.autograd.Function):
    """``quantized`` with the gradients of both its input and ``log amax``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _log_ratio: Tensor, quantizer: nn.Module) -> Tensor:
        y = quantized(x, quantizer)
        ctx.save_for_backward(x, y, amax_of(quantizer).clone())
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:  # type: ignore[override]
        x, y, amax = ctx.saved_tensors
        inside = x.abs() <= amax
        slope = torch.where(inside, y - x, y)
        axes = memory_axes(x)
        of_range = torch.dot(*(part.permute(axes).reshape(-1) for part in (grad, slope)))
        of_input = torch.where(inside, grad, grad.new_zeros(())) if ctx.needs_input_grad[0] else None
        return of_input, of_range, None


def quantized(x: Float[Tensor, "..."], quantizer: nn.Module) -> Float[Tensor, "..."]:
    """``quantizer(x)`` for a quantizer with one amax, in the memory layout of ``x``.

    The quantizers make their input contiguous. That would copy a channels-last one and slow down the layer behind
    it, so they get the values as they lie in memory.
    """
    axes = memory_axes(x)
    y: Tensor = quantizer(x.permute(axes))
    return y.permute([axes.index(axis) for axis in range(x.dim())])


class WeightRange(nn.Module):
    """A weight quantizer with an amax for each index of an axis; ``refresh`` takes it from the weight.

    It is that of ``quantize.weight_scales``: the largest magnitude, raised where the bias of a layer would not fit into
    int32.
    """

    def __init__(self, quantizer: nn.Module, spec: QuantizerSpec) -> None:
        super().__init__()
        self.quantizer, self.spec = quantizer, spec

    @torch.no_grad()
    def refresh(
        self,
        weight: Float[Tensor, "..."],
        readers: Sequence[tuple[Float[Tensor, "..."], Float[Tensor, ""]]],
    ) -> None:
        """Give the quantizer the amax of ``weight``; ``readers`` have the bias and the input scale of each layer."""
        assert self.spec.axis is not None
        scale = weight_scales(weight, self.spec.axis, self.spec.levels)
        for bias, input_scale in readers:
            scale = torch.maximum(scale, min_scales(bias, input_scale, len(scale)))
        amax = amax_of(self.quantizer)
        amax.copy_((scale * self.spec.levels).view_as(amax))

    def forward(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        result: Tensor = self.quantizer(weight)
        return result
