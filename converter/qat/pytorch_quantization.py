"""Quantizers of NVIDIA's pytorch-quantization 2.2.1, ModelOpt's predecessor; it needs CUDA to be installed."""

import warnings

import numpy as np
from torch import nn

from converter.errors import QATError
from converter.qat.quantizers import Backend, QuantizerSpec


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

    def quantizer(spec: QuantizerSpec) -> nn.Module:
        made: nn.Module = TensorQuantizer(
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
