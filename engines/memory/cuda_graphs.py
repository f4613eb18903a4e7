"""CUDA graphs by the driver itself: PyCUDA has no calls for them, and PyTorch's are for its own kernels.

The library is ``libcuda``, which comes with the GPU's driver; its calls take handles and give an error code.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from engines.errors import BuildError, EngineUnavailableError
from engines.memory.base import Stream

_LIBRARY = "libcuda.so.1"
# Calls of other threads that may not happen during a capture, such as cudaMalloc, stay allowed; as trtexec.
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_CAPTURE_INVALIDATED = 901  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

_HANDLE = ctypes.c_void_p
_OUT = ctypes.POINTER(_HANDLE)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuStreamBeginCapture_v2": (_HANDLE, ctypes.c_int),
    "cuStreamEndCapture": (_HANDLE, _OUT),
    "cuGraphGetNodes": (_HANDLE, _OUT, ctypes.POINTER(ctypes.c_size_t)),
    "cuGraphInstantiateWithFlags": (_OUT, _HANDLE, ctypes.c_ulonglong),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGraphDestroy": (_HANDLE,),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
}


@cache
def driver_library() -> Any:
    """``libcuda`` with its signatures. Raises EngineUnavailableError where there is no driver of CUDA 11.4."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
    except (OSError, AttributeError) as error:
        raise EngineUnavailableError(
            f"CUDA graphs need an NVIDIA driver of CUDA 11.4 or newer: {error}"
        ) from error
    return library


class CudaGraph:
    """A captured graph, ready to be launched."""

    def __init__(self, library: Any, executable: ctypes.c_void_p) -> None:
        self._library, self._executable = library, executable

    def launch(self, stream: Stream) -> None:
        if not self._executable:
            raise BuildError("the CUDA graph is closed; capture it anew")
        _check(self._library, "cuGraphLaunch", self._library.cuGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Frees the graph; no launch of it may still run. A second call does nothing."""
        if self._executable:
            code = self._library.cuGraphExecDestroy(self._executable)
            self._executable = ctypes.c_void_p()
            _check(self._library, "cuGraphExecDestroy", code)


def captured(stream: Stream, work: Callable[[], None], library: Any = None) -> CudaGraph:
    """The graph of what ``work`` enqueues on ``stream``, on the thread that calls.

    Raises BuildError where the work can't be captured (the error of ``work`` itself comes first), or holds
    nothing. The device must be current, and ``work`` should have run once before: what happens only the first
    time does not belong into the graph.
    """
    library = library or driver_library()
    stream.synchronize()
    _check(library, "cuStreamBeginCapture", library.cuStreamBeginCapture_v2(stream.handle, _THREAD_LOCAL))
    graph = ctypes.c_void_p()
    finished = False
    try:
        work()
        finished = True
    finally:
        # Also after an error, or the stream would stay in its capture.
        code = library.cuStreamEndCapture(stream.handle, ctypes.byref(graph))
        if not finished and graph:
            library.cuGraphDestroy(graph)
    _check(library, "cuStreamEndCapture", code)
    try:
        return CudaGraph(library, _instantiated(library, graph))
    finally:
        library.cuGraphDestroy(graph)  # the executable graph needs it no more


def _instantiated(library: Any, graph: ctypes.c_void_p) -> ctypes.c_void_p:
    nodes = ctypes.c_size_t()
    _check(library, "cuGraphGetNodes", library.cuGraphGetNodes(graph, None, ctypes.byref(nodes)))
    if nodes.value == 0:
        raise BuildError("the CUDA graph is empty: the captured work ran elsewhere; leave --cuda-graph out")
    executable = ctypes.c_void_p()
    code = library.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, 0)
    _check(library, "cuGraphInstantiateWithFlags", code)
    return executable


def _check(library: Any, call: str, code: int) -> None:
    if code == 0:
        return
    hint = ""
    if code == _CAPTURE_INVALIDATED:
        hint = "; the network holds work that can't be captured, leave --cuda-graph out"
    raise BuildError(f"{call} failed with {error_name(library, code)}{hint}")


def error_name(library: Any, code: int) -> str:
    """``"CUDA_ERROR_INVALID_VALUE (invalid argument)"`` for 1; ``"error N"`` for one that the driver doesn't know."""
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    if library.cuGetErrorName(code, ctypes.byref(name)) != 0 or name.value is None:
        return f"error {code}"
    library.cuGetErrorString(code, ctypes.byref(text))
    return f"{name.value.decode()} ({(text.value or b'').decode()})"
