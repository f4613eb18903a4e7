"""The library of NVIDIA's driver by ctypes, in one place: the dozen calls that are made of it, with their signatures.

NVIDIA's own ``cuda.bindings`` has them too, but only PyTorch's builds with CUDA bring it, and only on Linux. A Jetson,
PyTorch for the CPU and PyCUDA alone would still need what stands here, so both would be two ways to the same calls.
The library itself comes with the driver.
"""

import ctypes
from typing import Any

from engines.errors import EngineUnavailableError

LIBRARY = "libcuda.so.1"

_INT, _HANDLE, _TEXT = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
_INT_OUT, _HANDLE_OUT, _TEXT_OUT = map(ctypes.POINTER, (_INT, _HANDLE, _TEXT))
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (_INT_OUT,),
    "cuDeviceGetCount": (_INT_OUT,),
    "cuDeviceGet": (_INT_OUT, _INT),
    "cuDeviceGetName": (_TEXT, _INT, _INT),
    "cuDeviceGetAttribute": (_INT_OUT, _INT, _INT),
    "cuStreamBeginCapture_v2": (_HANDLE, _INT),
    "cuStreamEndCapture": (_HANDLE, _HANDLE_OUT),
    "cuGraphGetNodes": (_HANDLE, _HANDLE_OUT, ctypes.POINTER(ctypes.c_size_t)),
    "cuGraphInstantiateWithFlags": (_HANDLE_OUT, _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
    "cuGetErrorName": (_INT, _TEXT_OUT),
    "cuGetErrorString": (_INT, _TEXT_OUT),
}
"""Each call gives an error code, 0 for success, and writes its results where its arguments point to."""


def libcuda(*calls: str) -> Any:
    """The library, ready for ``calls`` and for naming errors. Raises EngineUnavailableError where it lacks one."""
    try:
        library = ctypes.CDLL(LIBRARY)
        for name in (*calls, "cuGetErrorName", "cuGetErrorString"):
            function = getattr(library, name)
            function.argtypes, function.restype = _SIGNATURES[name], _INT
    except (OSError, AttributeError) as error:
        raise EngineUnavailableError(f"failed to load {LIBRARY} of the NVIDIA driver: {error}") from error
    return library


def error_name(library: Any, code: int) -> str:
    """``"CUDA_ERROR_INVALID_VALUE (invalid argument)"`` for 1; ``"error N"`` for one that the driver doesn't know."""
    name, text = _TEXT(), _TEXT()
    if library.cuGetErrorName(code, ctypes.byref(name)) != 0 or name.value is None:
        return f"error {code}"
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"{name.value.decode()} ({(text.value or b'').decode()})"
