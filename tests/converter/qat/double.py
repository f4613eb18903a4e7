"""pytorch-quantization 2.2.1 as far as the adapter uses it, written from its documentation and source.

The package can't be installed without CUDA. Like the real one this refuses what it doesn't know. ``install`` with
``cuda=True`` has it compute as on a GPU: in ``tools/pytorch-quantization/src/tensor_quant_gpu.cu`` of NVIDIA/TensorRT
both functions that ``tensor_quant.py`` calls there take ``narrow_range``, but start their kernels without it, and the
kernels' default is true. On a CPU ``tensor_quant.py`` computes by itself and honours it.
"""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn


class QuantDescriptor:
    """``ScaledQuantDescriptor``: how a tensor is quantized."""

    def __init__(self, num_bits: int = 8, name: str | None = None, **given: Any) -> None:
        if not isinstance(num_bits, int) or num_bits < 0:
            raise ValueError(f"num_bits must be > 0, not {num_bits}.")
        self.num_bits = num_bits
        self.axis = given.pop("axis", None)
        self.unsigned = given.pop("unsigned", False)
        self.narrow_range = given.pop("narrow_range", False)
        amax = given.pop("amax", None)
        if amax is not None and not isinstance(amax, float | list | np.ndarray):
            raise TypeError(f"amax must be float, list or ndarray, not {type(amax)}")
        self.amax = None if amax is None else np.array(amax, dtype=np.float32)
        if given:
            raise TypeError(f"Unused keys: {given.keys()}")


class TensorQuantizer(nn.Module):
    """A fake quantizer. With an amax it is that one; without, the largest value of each input along the axis."""

    cuda = False

    def __init__(self, quant_desc: QuantDescriptor, disabled: bool = False) -> None:
        super().__init__()
        self.descriptor, self.disabled = quant_desc, disabled
        if quant_desc.amax is not None:
            self.register_buffer("_amax", torch.tensor(quant_desc.amax))

    @property
    def num_bits(self) -> int:
        return self.descriptor.num_bits

    @property
    def amax(self) -> Tensor | None:
        return getattr(self, "_amax", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.disabled:
            return x
        amax = self.amax
        if amax is None:
            axes = [dim for dim in range(x.dim()) if dim != self.descriptor.axis]
            amax = x.detach().abs().amax(axes, keepdim=self.descriptor.axis is not None)
        d = self.descriptor
        result: Tensor = _FakeQuantize.apply(x, amax, d.num_bits, d.unsigned, d.narrow_range or self.cuda)
        return result


class _FakeQuantize(torch.autograd.Function):
    """Straight through inside of the range, zero outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, amax: Tensor, bits: int, unsigned: bool, narrow: bool) -> Tensor:
        ctx.save_for_backward(x, amax)
        if unsigned and x.min() < 0:
            raise TypeError("Negative values encountered in unsigned quantization.")
        largest = 2.0 ** (bits - 1 + int(unsigned)) - 1
        least = 0.0 if unsigned else -largest if narrow else -largest - 1
        scale = largest / amax
        dead = amax <= 2.0**-24
        codes = torch.clamp((x * torch.where(dead, 0.0, scale)).round(), least, largest)
        return codes / torch.where(dead, 1.0, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[override]
        x, amax = ctx.saved_tensors
        return torch.where(x.abs() <= amax, grad, 0.0), None, None, None, None


class OnCuda(TensorQuantizer):
    """What a GPU makes of it."""

    cuda = True


def install(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False) -> None:
    """Have ``import pytorch_quantization`` find the double."""
    contents = {
        "pytorch_quantization": {},
        "pytorch_quantization.nn": {"TensorQuantizer": OnCuda if cuda else TensorQuantizer},
        "pytorch_quantization.tensor_quant": {"QuantDescriptor": QuantDescriptor},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
