"""What is installed here and works: each package is tried in a process of its own.

An import can take the process down with it, where a native library doesn't fit the machine, and it can hang. So
a probe that dies or doesn't answer is a finding, like one that raises.
"""

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from converter.doctor.isolated_call import ChildError, call_in_child

TIMEOUT_S = 120.0
"""ModelOpt takes 12 s to import on two cores."""

AT_A_TIME = 4


class _Names(NamedTuple):
    """What a probe's package is called when it is installed and when it is imported; the first that is there."""

    packages: tuple[str, ...]
    modules: tuple[str, ...]


_NAMES = {
    "onnxruntime": _Names(("onnxruntime", "onnxruntime-gpu"), ("onnxruntime",)),
    "tensorrt": _Names(("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), ("tensorrt",)),
    "tensorrt-rtx": _Names(
        ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
    ),
    "pycuda": _Names(("pycuda",), ("pycuda",)),
    "torch": _Names(("torch",), ("torch",)),
    "nvml": _Names(("nvidia-ml-py", "pynvml"), ("pynvml",)),
    "modelopt": _Names(("nvidia-modelopt",), ("modelopt",)),
    "pytorch-quantization": _Names(("pytorch-quantization",), ("pytorch_quantization",)),
}


@dataclass(frozen=True)
class Finding:
    """One package on this machine.

    ``version`` is None where it isn't installed. ``works`` says that what this project needs of it was really
    done; ``reason`` why not. ``details`` are facts besides, by probe.
    """

    version: str | None
    works: bool
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def installed_version(probe: str) -> str | None:
    """The version of the first package of ``probe`` that is installed, or None."""
    packages = _NAMES[probe].packages if probe in _NAMES else ()
    found = (list(importlib.metadata.distributions(name=package)) for package in packages)
    return next((distributions[0].version for distributions in found if distributions), None)


def module_of(probe: str) -> str | None:
    """The module of ``probe`` that can be imported, as far as looking for it tells, or None."""
    return next((name for name in _NAMES[probe].modules if importlib.util.find_spec(name) is not None), None)


def onnxruntime() -> Finding:
    """Runs a network of one node."""
    import numpy as np
    import onnx
    import onnxruntime as ort

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "probe", [value], [out])
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answered,) = session.run(None, {"x": np.ones(1, np.float32)})
    works = float(answered[0]) == -1.0
    return Finding(ort.__version__, works, "" if works else f"it says that -(1) is {answered[0]}")


def tensorrt() -> Finding:
    """Makes TensorRT's builder and runtime, which asks for a GPU."""
    return _builder_and_runtime("tensorrt")


def tensorrt_rtx() -> Finding:
    """Makes the builder of TensorRT for RTX, which asks for no GPU."""
    return _builder_and_runtime("tensorrt-rtx")


def _builder_and_runtime(probe: str) -> Finding:
    name = str(module_of(probe))
    trt: Any = importlib.import_module(name)
    if not hasattr(trt, "Builder"):
        reason = f"a folder called {name} stands on Python's path, but it isn't TensorRT; take it away"
        return Finding(installed_version(probe), False, reason, {"impostor": True})
    log = trt.Logger(trt.Logger.ERROR)
    trt.Builder(log)
    trt.Runtime(log)
    return Finding(str(trt.__version__), True)


def pycuda() -> Finding:
    """Counts the GPUs that PyCUDA reaches."""
    driver: Any = importlib.import_module("pycuda.driver")
    driver.init()
    number = int(driver.Device.count())
    return Finding(installed_version("pycuda"), number > 0, "" if number else "it finds no GPU")


def torch() -> Finding:
    """Makes a tensor on the GPU, if PyTorch has CUDA."""
    import torch as pytorch

    details: dict[str, Any] = {"cuda": pytorch.version.cuda}
    version = str(pytorch.__version__)
    if pytorch.version.cuda is None:
        return Finding(version, False, "this PyTorch is built without CUDA", details)
    try:
        pytorch.cuda.init()
    except RuntimeError as error:  # no driver, one that is too old, no GPU
        return Finding(version, False, _first_line(error), details)
    pytorch.ones(1, device="cuda").add_(1).cpu()
    return Finding(version, True, "", details)


def gpu() -> Finding:
    """The GPUs that CUDA programs can use, asked of the driver itself."""
    from engines.gpu import driver_cuda, gpu_name, gpus

    found = gpus()
    if not found.number:
        return Finding(None, False, found.reason)
    names = [gpu_name(index)._asdict() for index in range(found.number)]
    return Finding(None, True, "", {"cuda": driver_cuda(), "gpus": names})


def nvml() -> Finding:
    """The driver's version and the state of each GPU. NVML counts GPUs that CUDA_VISIBLE_DEVICES hides too."""
    from engines.bench.nvml import gpu_state, text

    pynvml: Any = importlib.import_module("pynvml")
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        readings = [gpu_state(text(pynvml.nvmlDeviceGetPciInfo(handle).busId)) for handle in handles]
        driver = text(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()
    states = [reading.state.to_json() for reading in readings if reading.state is not None]
    reason = "" if states else next((reading.reason for reading in readings), "it finds no GPU")
    return Finding(installed_version("nvml"), bool(states), reason, {"driver": driver, "gpus": states})


def modelopt() -> Finding:
    """Imports what --qat-backend modelopt needs."""
    importlib.import_module("modelopt.torch.quantization.nn").TensorQuantizer  # noqa: B018
    return Finding(installed_version("modelopt"), True)


def pytorch_quantization() -> Finding:
    """Imports what --qat-backend pytorch-quantization needs; the package's own CUDA code is loaded with it."""
    importlib.import_module("pytorch_quantization.nn").TensorQuantizer  # noqa: B018
    return Finding(installed_version("pytorch-quantization"), True)


def system() -> Finding:
    """JetPack and TensorRT of the system's own packages, whether this Python sees them or not."""
    from converter.environment.system import system_packages

    found = system_packages()
    return Finding(found.tensorrt, found.tensorrt is not None, "", asdict(found))


PROBES: dict[str, Callable[[], Finding]] = {
    "modelopt": modelopt,  # the slowest first
    "pytorch-quantization": pytorch_quantization,
    "torch": torch,
    "tensorrt": tensorrt,
    "tensorrt-rtx": tensorrt_rtx,
    "onnxruntime": onnxruntime,
    "pycuda": pycuda,
    "gpu": gpu,
    "nvml": nvml,
    "system": system,
}


def answer(name: str) -> dict[str, Any]:
    """The finding of the probe ``name``, made in this process, as JSON's values."""
    try:
        if name in _NAMES and module_of(name) is None:
            version = installed_version(name)
            finding = Finding(version, False, "" if version is None else "the package of this name is empty")
        else:
            finding = PROBES[name]()
    except Exception as error:  # noqa: BLE001 - an import can raise anything, and it is the finding
        finding = Finding(installed_version(name), False, _first_line(error))
    return asdict(finding)


def ask(name: str, timeout_s: float = TIMEOUT_S) -> Finding:
    """The finding of the probe ``name``, made in a process of its own."""
    try:
        return Finding(**call_in_child("converter.doctor.probes:answer", name, timeout_s))
    except ChildError as error:
        return Finding(installed_version(name), False, f"the process that imported it {error.in_words}")


def ask_all(names: Iterable[str] = tuple(PROBES), timeout_s: float = TIMEOUT_S) -> dict[str, Finding]:
    """The finding of each probe by name, a few at a time."""
    names = tuple(names)
    with ThreadPoolExecutor(max_workers=min(AT_A_TIME, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(lambda name: ask(name, timeout_s), names), strict=True))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    return f"{kind}: {lines[0]}" if lines else kind
