"""Quantizers of NVIDIA's pytorch-quantization 2.2.1, ModelOpt's predecessor; it needs CUDA to be installed."""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from converter.errors import QATError
from converter.qat.quantizers import Backend, QuantizerSpec

_DEAD = 2.0**-24
"""The package gives zeros for an amax up to this one."""


def with_lowest_code(x: Tensor, y: Tensor, amax: Tensor, levels: int) -> Tensor:
    """``y``, the package's fake quantization of ``x``, with the code ``-levels - 1`` where ``x`` rounds to it.

    On a GPU the package drops ``narrow_range`` on the way to its kernels, whose default stops at ``-levels``: 8 bits
    end at -127 there, and at -128 on a CPU, in ModelOpt and in the Q/DQ model. ``|x| > amax`` there, so that the
    gradient is zero with either code.
    """
    scale = levels / amax
    lowest = ((x * scale).round() < -levels) & (amax > _DEAD)
    return torch.where(lowest, (-levels - 1) / scale, y)


def load_backend() -> Backend:
    """The maker of pytorch-quantization's quantizers. Raises QATError where the package can't be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its import, about PyTorch's deprecations
            from pytorch_quantization.nn import TensorQuantizer
            from pytorch_quantization.tensor_quant import QuantDescriptor
    except ImportError as error:
        raise QATError(
            "--qat-backend pytorch-quantization needs NVIDIA's package of that name, which can't be imported "
            f"({error}). Where CUDA is installed: pip install --no-build-isolation "
            "'git+https://github.com/NVIDIA/TensorRT#subdirectory=tools/pytorch-quantization'; elsewhere take "
            "--qat-backend modelopt"
        ) from error

    class FullRange(TensorQuantizer):  # type: ignore[misc]
        """The package's quantizer with the whole range of signed codes on every device."""

        def forward(self, inputs: Tensor) -> Tensor:
            return with_lowest_code(
                inputs, super().forward(inputs), self.amax, int(2 ** (self.num_bits - 1) - 1)
            )

    def quantizer(spec: QuantizerSpec) -> nn.Module:
        kind = TensorQuantizer if spec.narrow or spec.unsigned else FullRange
        made: nn.Module = kind(
            QuantDescriptor(
                num_bits=spec.num_bits,
                axis=spec.axis,
                amax=np.ones(spec.shape, np.float32),
                unsigned=spec.unsigned,
                narrow_range=spec.narrow,
            )
        )
        return made

    return quantizer
