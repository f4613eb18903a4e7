"""What the probes' findings mean to a user: what can be built and run here, why not, and what to type then."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from converter.doctor.probes import Finding
from converter.environment.machine import processor
from converter.environment.system import SystemPackages
from converter.version import __version__
from engines.errors import PYCUDA_EXTRA, RTX_EXTRA, TENSORRT_EXTRA
from engines.options import COMPUTE_CAPABILITIES

QAT_EXTRA = 'pip install "zscgan-convert[qat]"'

SYSTEM_VENV = "make the environment anew: python3 -m venv --system-site-packages .venv"

MISSING = "not installed"
NO_GPU = "no NVIDIA GPU answers here"


@dataclass(frozen=True)
class Component:
    """One line of the table.

    ``group`` is ``engines``, ``memory``, ``state`` or ``qat``. ``builds`` is None for what builds nothing.
    ``reason`` says why something isn't possible, ``fix`` what to type or do then; both can be empty.
    """

    name: str
    group: str
    version: str | None
    builds: bool | None
    runs: bool
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Checkup:
    """The machine and its components. ``gpus`` have ``name`` and ``compute_capability``."""

    machine: dict[str, Any]
    gpus: tuple[Mapping[str, str], ...]
    components: tuple[Component, ...]

    @property
    def engines(self) -> tuple[Component, ...]:
        """The engines alone."""
        return tuple(component for component in self.components if component.group == "engines")

    @property
    def passed(self) -> bool:
        """Whether at least one engine builds and runs."""
        return any(engine.builds and engine.runs for engine in self.engines)

    def to_json(self) -> dict[str, Any]:
        """The checkup as JSON's values."""
        components = [asdict(component) for component in self.components]
        return {"passed": self.passed, "machine": self.machine, "components": components}


def checkup_from_findings(findings: Mapping[str, Finding]) -> Checkup:
    """What ``findings`` (probe -> finding) mean."""
    gpus = tuple(findings["gpu"].details.get("gpus", ()))
    has_gpu = findings["gpu"].works
    system = SystemPackages(**findings["system"].details)
    components = (
        _onnxruntime(findings["onnxruntime"]),
        _tensorrt(findings["tensorrt"], has_gpu, system),
        _tensorrt_rtx(findings["tensorrt-rtx"], gpus, has_gpu),
        _pycuda(findings["pycuda"], has_gpu),
        _torch(findings["torch"], has_gpu, system),
        _nvml(findings["nvml"], has_gpu),
        _modelopt(findings["modelopt"]),
        _pytorch_quantization(findings["pytorch-quantization"]),
    )
    return Checkup(_machine(findings, system), gpus, components)


def _machine(findings: Mapping[str, Finding], system: SystemPackages) -> dict[str, Any]:
    gpu, nvml, torch = findings["gpu"], findings["nvml"], findings["torch"]
    return {
        "zscgan_convert": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpus": gpu.details.get("gpus", []),
        "no_gpu": gpu.reason,
        "driver": nvml.details.get("driver"),
        "driver_cuda": gpu.details.get("cuda"),
        "gpu_state": nvml.details.get("gpus", []),
        "torch": torch.version,
        "torch_cuda": torch.details.get("cuda"),
        "jetpack": system.jetpack,
        "l4t": system.l4t,
        "system_tensorrt": system.tensorrt,
    }


def _onnxruntime(found: Finding) -> Component:
    fix = "" if found.works else "pip install --force-reinstall onnxruntime"
    reason = _why_not(found)
    return Component("onnxruntime", "engines", found.version, found.works, found.works, reason, fix)


def _tensorrt(found: Finding, has_gpu: bool, system: SystemPackages) -> Component:
    missing = found.version is None and not found.works
    install = _install_tensorrt(system)
    fix = "" if found.works else install
    reasons = [_why_not(found)]
    if missing and not found.reason and system.bindings is not None:
        version = f" {system.tensorrt}" if system.tensorrt else ""
        reasons = [f"this Python doesn't see TensorRT{version} in {system.bindings}"]
    if not has_gpu:
        # Without a GPU an error of the import is what is to be expected, and says less than this does.
        keep = missing or found.details.get("impostor")
        reasons = [*(reasons if keep else []), f"it builds and runs on an NVIDIA GPU alone, and {NO_GPU}"]
        fix = f"on a machine with a GPU: {install}" if missing else ""
    works = found.works and has_gpu
    return Component("tensorrt", "engines", found.version, works, works, "; ".join(reasons), fix)


def _install_tensorrt(system: SystemPackages) -> str:
    """How TensorRT comes into this environment; pip's packages are not for a Jetson, nor beside Debian's."""
    if system.bindings is not None:
        return SYSTEM_VENV
    if system.tensorrt is not None or system.l4t is not None:
        return f"sudo apt-get install python3-libnvinfer; then {SYSTEM_VENV}"
    return TENSORRT_EXTRA


def _tensorrt_rtx(found: Finding, gpus: tuple[Mapping[str, str], ...], has_gpu: bool) -> Component:
    first = gpus[0] if gpus else None  # the one that engines run on
    fitting = first is not None and first["compute_capability"] in COMPUTE_CAPABILITIES
    reason, fix = _why_not(found), ""
    if not found.works:
        fix = RTX_EXTRA if platform.machine() in {"x86_64", "AMD64"} else ""
        reason += "" if fix else "; it is made for x86-64 machines alone"
    elif not has_gpu:
        reason = f"plans are built without a GPU and run on an RTX one, and {NO_GPU}"
    elif first is not None and not fitting:
        reason = (
            f"plans run on compute capability {', '.join(COMPUTE_CAPABILITIES)}; here the {first['name']} has "
            f"{first['compute_capability']}, which is TensorRT's: take --engine tensorrt"
        )
    return Component(
        "tensorrt-rtx", "engines", found.version, found.works, found.works and fitting, reason, fix
    )


def _pycuda(found: Finding, has_gpu: bool) -> Component:
    install = f"{PYCUDA_EXTRA}, which compiles it with the CUDA toolkit; torch does without"
    reason, fix = _why_not(found), "" if found.works else install
    if not has_gpu:
        reason = NO_GPU if found.version else f"{MISSING}, and {NO_GPU}"
        fix = "" if found.version else f"on a machine with a GPU: {install}"
    return Component("pycuda", "memory", found.version, None, found.works and has_gpu, reason, fix)


def _torch(found: Finding, has_gpu: bool, system: SystemPackages) -> Component:
    reason, fix = _why_not(found), ""
    if found.version is None:
        fix = "pip install torch torchvision"
    elif not has_gpu:
        reason = NO_GPU
    elif not found.works and system.l4t is not None:
        fix = "install the build for this JetPack (docs/jetson.md), or take PyCUDA for the memory"
    elif found.details.get("cuda", "") is None:
        fix = "install PyTorch's build for your CUDA: https://pytorch.org/get-started"
    elif not found.works:
        fix = (
            "update the NVIDIA driver, or install PyTorch for an older CUDA: https://pytorch.org/get-started"
        )
    return Component("torch", "memory", found.version, None, found.works and has_gpu, reason, fix)


def _nvml(found: Finding, has_gpu: bool) -> Component:
    reason = _why_not(found)
    if found.version is not None and not found.works and not has_gpu:
        reason = NO_GPU
    fix = "pip install nvidia-ml-py" if found.version is None and not found.works else ""
    return Component("nvidia-ml-py", "state", found.version, None, found.works, reason, fix)


def _modelopt(found: Finding) -> Component:
    fix = "" if found.works else QAT_EXTRA
    return Component("modelopt", "qat", found.version, None, found.works, _why_not(found), fix)


def _pytorch_quantization(found: Finding) -> Component:
    fix = ""
    if not found.works:
        fix = (
            "take --qat-backend modelopt, its successor; or install 2.2.1 as NVIDIA's documentation says (it needs "
            "CUDA, and the package of that name on PyPI is empty)"
        )
    return Component("pytorch-quantization", "qat", found.version, None, found.works, _why_not(found), fix)


def _why_not(found: Finding) -> str:
    if found.works:
        return ""
    return found.reason or MISSING
