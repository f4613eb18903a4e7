"""TensorRT 10 and 11: builds plans on, and for, the GPU of this machine."""

import importlib
import logging
from pathlib import Path
from typing import Any, cast

from engines.errors import TENSORRT_EXTRA, BuildError, EngineUnavailableError
from engines.options import BuildOptions
from engines.tensorrt.api import TensorRT
from engines.tensorrt.builder import PlanBuilder, plan_from_onnx
from engines.tensorrt.cancellation import Progress

_LOGGER = logging.getLogger(__name__)
_OLDEST = 10


def load_tensorrt() -> TensorRT:
    """The module of TensorRT 10 or 11; EngineUnavailableError with the command that fixes it."""
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        missing = "is not installed here" if error.name == "tensorrt" else f"can't be loaded: {error}"
        raise EngineUnavailableError(
            f"TensorRT {missing}; type {TENSORRT_EXTRA}, or, where the system has it (JetPack, Debian packages), "
            "make the environment with python3 -m venv --system-site-packages"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        # The bindings without their libraries (libnvinfer), or libraries of another CUDA version.
        raise EngineUnavailableError(
            f"TensorRT can't be loaded: {error}; install its libraries too: {TENSORRT_EXTRA}"
        ) from error
    if not hasattr(module, "Builder"):
        place = getattr(module, "__file__", None) or ", ".join(getattr(module, "__path__", ()))
        raise EngineUnavailableError(
            f"expected NVIDIA's TensorRT, but the module tensorrt in {place} has no Builder (type stubs?); "
            f"remove it from the Python path, or type {TENSORRT_EXTRA}"
        )
    version = str(getattr(module, "__version__", "unknown"))
    major = version.partition(".")[0]
    if not major.isdigit() or int(major) < _OLDEST:
        raise EngineUnavailableError(
            f"expected TensorRT {_OLDEST} or newer, but {version} is installed; type {TENSORRT_EXTRA} --upgrade"
        )
    return cast(TensorRT, module)


def has_calibrators(trt: TensorRT) -> bool:
    """Whether this version takes a calibrator; TensorRT 11 has none."""
    return hasattr(trt, "IInt8EntropyCalibrator2")


def require_calibrators(trt: TensorRT | None = None) -> TensorRT:
    """``trt``, or the TensorRT that is installed; BuildError where it takes no calibrator."""
    trt = trt or load_tensorrt()
    if not has_calibrators(trt):
        raise BuildError(
            f"TensorRT {trt.__version__} takes no calibrator: TensorRT 11 removed implicit quantization; build "
            'model.int8.onnx, whose Q/DQ pairs hold the same ranges, or type pip install "tensorrt<11"'
        )
    return trt


def engine_from_onnx(
    onnx_path: Path | str,
    out_path: Path | str,
    options: BuildOptions | None = None,
    *,
    calibrator: Any = None,
    log_path: Path | str | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Writes the plan of an ONNX network for this machine's GPU and gives its path.

    A FP32 or Q/DQ network is built as it is (strongly typed); with ``options.fp16`` all that is not INT8 is in
    half precision. With a ``calibrator`` (TensorRT 10's ``IInt8Calibrator``) a network without Q/DQ pairs is
    built in INT8 where that is faster, and with ``options.fp16`` in half precision where that is.

    The log goes to the Python logger ``engines.tensorrt.library`` and to ``log_path``; ``on_progress`` is told of each
    step (``tensorrt.builder``). Raises EngineUnavailableError where TensorRT or its GPU is missing and BuildError,
    with the node's name, where it refuses the network or an option.
    """
    trt = load_tensorrt()
    if calibrator is not None:
        _check_calibration(Path(onnx_path))
    return plan_from_onnx(
        PlanBuilder(trt, f"TensorRT {trt.__version__}", _LOGGER),
        Path(onnx_path),
        Path(out_path),
        options or BuildOptions(),
        calibrator=calibrator,
        log_path=None if log_path is None else Path(log_path),
        on_progress=on_progress,
    )


def _check_calibration(onnx_path: Path) -> None:
    """BuildError where a calibrator can't be meant: TensorRT 11, or a network that brings its own ranges."""
    require_calibrators()
    from engines.onnx_passes.file import load_onnx

    nodes = [node.op_type for node in load_onnx(onnx_path).graph.node]
    if pairs := nodes.count("QuantizeLinear") + nodes.count("DequantizeLinear"):
        raise BuildError(
            f"expected a network without Q/DQ for a calibrator, but {onnx_path} has {pairs} such nodes; take "
            "model.fp32.onnx, or build this one without the calibrator"
        )
