"""How ONNX Runtime is set where this package runs it, and what it raises."""

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

# What ONNX Runtime raises for a file or a network that it can't take; it has no common base.
REFUSALS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    MemoryError,
    RuntimeError,
    UnicodeDecodeError,  # of its own message, which quotes the file
)


def session_options(threads: int | None) -> ort.SessionOptions:
    """Options of a session on the CPU, with ``threads`` for a call; None for all cores.

    ONNX Runtime's own Q/DQ fusions are off, as they would requantize where the network does not. So is busy waiting
    between operators: on a shared machine it takes the cores from the other threads.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
