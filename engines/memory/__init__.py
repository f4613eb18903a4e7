"""Device memory, streams, events and CUDA graphs, through PyCUDA or PyTorch."""

from engines.errors import EngineUnavailableError
from engines.memory.base import Device
from engines.options import BUFFERS


def open_device(name: str = "auto") -> Device:
    """The first GPU through the provider ``name``; its ``name`` says which one it is.

    ``auto`` takes PyCUDA where it imports and a GPU answers, else PyTorch. Raises EngineUnavailableError with
    the reason, for ``auto`` that of both.
    """
    from engines.memory.pycuda import open_pycuda
    from engines.memory.torch import open_torch

    if name == "pycuda":
        return open_pycuda()
    if name == "torch":
        return open_torch()
    if name != "auto":
        raise EngineUnavailableError(f"expected --buffers from {', '.join(BUFFERS)}, got {name!r}")
    try:
        return open_pycuda()
    except EngineUnavailableError as pycuda_error:
        try:
            return open_torch()
        except EngineUnavailableError as torch_error:
            raise EngineUnavailableError(
                f"no GPU answers here. Through PyCUDA: {pycuda_error}. Through PyTorch: {torch_error}"
            ) from torch_error
