"""TensorRT for RTX: builds plans ahead of time for given GPUs, on a machine that needs none.

The API is TensorRT 11's: networks are strongly typed, INT8 is what the Q/DQ pairs say. A timing cache would
ask for a GPU, so none is made. Reading a plan back asks for a GPU too.
"""

import importlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

from engines.errors import BuildError, EngineUnavailableError
from engines.files import existing_file, replaced_file
from engines.options import BuildOptions

_LOGGER = logging.getLogger(__name__)
_INSTALL = 'pip install "zscgan-convert[rtx]"'


def load_tensorrt_rtx() -> Any:
    """The module of TensorRT for RTX; EngineUnavailableError with the command that installs it."""
    # The meta package gives the first name, the wheels for one CUDA version the second.
    names = ("tensorrt_rtx", "tensorrt_rtx_bindings")
    name = next((name for name in names if importlib.util.find_spec(name) is not None), None)
    if name is None:
        raise EngineUnavailableError(f"TensorRT for RTX is not installed here; type {_INSTALL} (x86-64 only)")
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(
            f"TensorRT for RTX can't be loaded: {error}; install it anew: {_INSTALL}"
        ) from error


def engine_from_onnx(
    onnx_path: Path | str, out_path: Path | str, options: BuildOptions | None = None
) -> Path:
    """Writes the plan of a FP32 or Q/DQ ONNX network for ``options.compute_capabilities``; gives its path.

    A dynamic batch gets one optimization profile (``options.min_batch`` to ``options.max_batch``). The log
    goes to the Python logger ``engines.tensorrt_rtx``. Raises EngineUnavailableError where TensorRT for RTX
    is missing and BuildError, with the node's name, where it refuses the network.
    """
    options = options or BuildOptions()
    trt = load_tensorrt_rtx()
    onnx_path, out_path = existing_file(Path(onnx_path)), Path(out_path)
    log = _new_logger(trt)
    builder = trt.Builder(log)
    network = _parsed_network(trt, builder, log, onnx_path)
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(options.compute_capabilities)
    for index, capability in enumerate(options.compute_capabilities):
        member = f"SM{capability.replace('.', '')}"
        if not config.set_compute_capability(getattr(trt.ComputeCapability, member), index):
            raise BuildError(f"TensorRT for RTX {trt.__version__} refused --compute-capability {capability}")
    _add_profile(builder, network, config, options)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"TensorRT for RTX could not build {onnx_path}: {log.last_error or 'see its log'}")
    with replaced_file(out_path) as temporary:
        temporary.write_bytes(plan)
    return out_path


def run(plan_path: Path | str) -> None:
    """Always EngineUnavailableError: this version builds plans and does not run them."""
    raise EngineUnavailableError(
        f"{plan_path} is a plan of TensorRT for RTX, which runs on an RTX GPU only; take it there with the "
        "runtime of TensorRT for RTX, or measure the network here by zscgan-build --engine onnxruntime"
    )


def _new_logger(trt: Any) -> Any:
    """An ILogger that hands everything to Python's logging and remembers the last error."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        # INFO tells of each build step, which is detail to a user of this package.
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.last_error = message
            _LOGGER.log(level, "%s", message)

    return Log()


def _parsed_network(trt: Any, builder: Any, log: Any, onnx_path: Path) -> Any:
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    # From the file, so that weights stored beside it are found.
    if parser.parse_from_file(str(onnx_path)):
        return network
    problems = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        where = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
        problems.append(f"{where}{error.desc()}")
    reason = "; ".join(problems) or log.last_error or "the file is no ONNX network"
    raise BuildError(f"TensorRT for RTX can't read {onnx_path}: {reason}")


def _add_profile(builder: Any, network: Any, config: Any, options: BuildOptions) -> None:
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *shape = tensor.shape
        if -1 in shape:
            raise BuildError(
                f"expected input {tensor.name} with a dynamic batch alone, got {tuple(tensor.shape)}"
            )
        if batch == -1:
            dynamic = True
            sizes = (options.min_batch, options.opt_batch, options.max_batch)
            profile.set_shape(tensor.name, *((size, *shape) for size in sizes))
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise BuildError(
            f"TensorRT for RTX refused batches {options.min_batch}, {options.opt_batch}, {options.max_batch}"
        )
