"""TensorRT for RTX: builds plans ahead of time for given GPUs, on a machine that needs none.

The API is TensorRT 11's: networks are strongly typed, INT8 is what the Q/DQ pairs say. Reading a plan back asks
for a GPU.
"""

import importlib
import importlib.util
import logging
from pathlib import Path
from typing import Any, cast

from engines.errors import RTX_EXTRA, BuildError, EngineUnavailableError
from engines.options import HARDWARE, BuildOptions, OptionError
from engines.tensorrt.api import TensorRT
from engines.tensorrt.builder import PlanBuilder, plan_from_onnx
from engines.tensorrt.cancellation import Progress

_LOGGER = logging.getLogger(__name__)


def load_tensorrt_rtx() -> TensorRT:
    """The module of TensorRT for RTX; EngineUnavailableError with the command that installs it."""
    # The meta package gives the first name, the wheels for one CUDA version the second.
    names = ("tensorrt_rtx", "tensorrt_rtx_bindings")
    name = next((name for name in names if importlib.util.find_spec(name) is not None), None)
    if name is None:
        raise EngineUnavailableError(
            f"TensorRT for RTX is not installed here; type {RTX_EXTRA} (x86-64 only)"
        )
    try:
        return cast(TensorRT, importlib.import_module(name))
    except (ImportError, OSError) as error:
        raise EngineUnavailableError(
            f"TensorRT for RTX can't be loaded: {error}; install it anew: {RTX_EXTRA}"
        ) from error


def engine_from_onnx(
    onnx_path: Path | str,
    out_path: Path | str,
    options: BuildOptions | None = None,
    *,
    log_path: Path | str | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Writes the plan of a FP32 or Q/DQ ONNX network for ``options.compute_capabilities``; gives its path.

    A dynamic batch gets one optimization profile (``options.min_batch`` to ``options.max_batch``). With
    ``options.fp16`` all that is not INT8 is in half precision. The log goes to the Python logger
    ``engines.tensorrt.rtx`` and to ``log_path``; ``on_progress`` is told of each step (``engines.tensorrt.builder``).

    Raises EngineUnavailableError where TensorRT for RTX is missing, OptionError for an option that it lacks
    and BuildError, with the node's name, where it refuses the network.
    """
    options = options or BuildOptions()
    check_options(options)
    trt = load_tensorrt_rtx()
    name = f"TensorRT for RTX {trt.__version__}"

    def set_compute_capabilities(config: Any, options: BuildOptions) -> None:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, capability in enumerate(options.compute_capabilities):
            member = f"SM{capability.replace('.', '')}"
            # Of RTX alone, so that the type stubs of TensorRT 10 lack it.
            known = getattr(cast(Any, trt).ComputeCapability, member, None)
            if known is None or not config.set_compute_capability(known, index):
                raise BuildError(f"{name} refused --compute-capability {capability}")

    return plan_from_onnx(
        PlanBuilder(trt, name, _LOGGER, set_compute_capabilities),
        Path(onnx_path),
        Path(out_path),
        options,
        log_path=None if log_path is None else Path(log_path),
        on_progress=on_progress,
    )


def check_options(options: BuildOptions) -> None:
    """OptionError for what TensorRT for RTX ignores or can't do ahead of time, instead of a plan without it."""
    refused = {
        "--timing-cache": (
            options.timing_cache is not None,
            "it measures no kernels, and a cache would ask for a GPU",
        ),
        "--hardware-compatible": (
            options.hardware_compatible != HARDWARE[0],
            "name the GPUs by --compute-capability",
        ),
        "--version-compatible": (
            options.version_compatible,
            "it has no lean runtime to put into the plan; build again for another version",
        ),
        "--refit": (options.refit, "a plan that can be refitted is compiled on a GPU, not ahead of time"),
    }
    for flag, (given, reason) in refused.items():
        if given:
            raise OptionError(
                f"TensorRT for RTX does not support {flag}: {reason}; remove it, or use --engine tensorrt"
            )
