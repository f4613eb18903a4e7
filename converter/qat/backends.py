"""The packages that NVIDIA's fake quantizers come from, by name."""

from converter.qat import modelopt, pytorch_quantization
from converter.qat.options import BACKENDS
from converter.qat.quantizers import Backend


def backend_from_name(name: str) -> Backend:
    """The maker of quantizers of ``--qat-backend``. Raises QATError where its package is missing."""
    if name == "modelopt":
        return modelopt.load_backend()
    if name == "pytorch-quantization":
        return pytorch_quantization.load_backend()
    raise ValueError(f"expected --qat-backend to be one of {', '.join(BACKENDS)}, got {name}")
