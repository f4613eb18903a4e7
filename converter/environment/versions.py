"""Which packages a conversion ran with."""

import importlib.metadata
import platform
from collections.abc import Iterable

PACKAGES = (
    "zscgan-convert", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy",
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13-bindings", "pycuda",
)  # fmt: skip


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Package -> installed version, with Python's; packages that aren't installed are left out."""
    names = (d.metadata["Name"] for d in importlib.metadata.distributions())
    installed = {name.lower().replace("_", "-") for name in names if name}
    found = {package: importlib.metadata.version(package) for package in packages if package in installed}
    return {"python": platform.python_version(), **found}
