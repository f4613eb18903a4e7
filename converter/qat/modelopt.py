"""Quantizers of NVIDIA ModelOpt (the package nvidia-modelopt), the default: it also runs on a CPU."""

import logging
import warnings
from typing import Any

import torch
from torch import nn

from converter.errors import QATError
from converter.qat.quantizers import Backend, QuantizerSpec


def load_backend() -> Backend:
    """The maker of ModelOpt's quantizers. Raises QATError where ModelOpt can't be imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of PyTorch, that there is no CUDA, as ModelOpt looks for it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of ModelOpt's import, about PyTorch's deprecations and absent plugins
            from modelopt.torch.quantization.config import QuantizerAttributeConfig
            from modelopt.torch.quantization.nn import TensorQuantizer
    except ImportError as error:
        raise QATError(
            f"--qat-backend modelopt needs NVIDIA ModelOpt, which can't be imported ({error}); "
            "pip install 'zscgan-convert[qat]'"
        ) from error
    finally:
        logging.disable(before)

    def quantizer(spec: QuantizerSpec) -> nn.Module:
        config: Any = QuantizerAttributeConfig(
            num_bits=spec.num_bits,
            axis=spec.axis,
            unsigned=spec.unsigned,
            narrow_range=spec.narrow,
            pass_through_bwd=False,  # by default values outside of the range get a gradient too
        )
        made: nn.Module = TensorQuantizer(config, amax=torch.ones(spec.shape))
        return made

    return quantizer
