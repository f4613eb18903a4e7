"""CUDA graphs by the driver itself: PyCUDA has no calls for them, and PyTorch's are for its own kernels."""

import ctypes
from collections.abc import Callable
from typing import Any

from engines.errors import BuildError, EngineUnavailableError
from engines.libcuda import error_name, libcuda
from engines.memory.base import Stream

# Calls of other threads that may not happen during a capture, such as cudaMalloc, stay allowed; as trtexec.
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_CAPTURE_INVALIDATED = 901  # CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

_CALLS = (
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphGetNodes",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
)


def driver_library() -> Any:
    """The driver's library. Raises EngineUnavailableError where it is not that of CUDA 11.4 or newer."""
    try:
        return libcuda(*_CALLS)
    except EngineUnavailableError as error:
        raise EngineUnavailableError(
            f"CUDA graphs require an NVIDIA driver of CUDA 11.4 or newer: {error}"
        ) from error


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


def capture(stream: Stream, work: Callable[[], None], library: Any = None) -> CudaGraph:
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
