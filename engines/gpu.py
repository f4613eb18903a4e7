"""Which NVIDIA GPUs answer, asked of the driver itself: no PyTorch, no CUDA toolkit."""

import ctypes
from typing import Any, NamedTuple

from engines.errors import EngineUnavailableError
from engines.libcuda import LIBRARY, error_name, libcuda

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_COMPUTE_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


class Gpus(NamedTuple):
    """How many GPUs this process can use and, where that is none, why."""

    number: int
    reason: str


class GpuName(NamedTuple):
    """What the driver calls a GPU, and its compute capability as in ``8.9``."""

    name: str
    compute_capability: str


def gpu_count() -> int:
    """Number of NVIDIA GPUs that this process can use."""
    return gpus().number


def gpus() -> Gpus:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves. Starts the driver, but makes no context on any GPU."""
    try:
        driver = libcuda("cuInit", "cuDeviceGetCount")
    except EngineUnavailableError:
        return Gpus(0, f"no NVIDIA driver is installed here ({LIBRARY})")
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value == 0):
        return Gpus(0, "the NVIDIA driver finds no GPU, or CUDA_VISIBLE_DEVICES hides it")
    if status != 0:
        return Gpus(0, f"the NVIDIA driver does not start (CUDA error {status}); see what nvidia-smi says")
    return Gpus(count.value, "")


def driver_cuda() -> str:
    """The newest CUDA that the driver runs, as in ``12.8``. Raises EngineUnavailableError where it doesn't say."""
    version = _number(libcuda("cuDriverGetVersion"), "cuDriverGetVersion")
    return f"{version // 1000}.{version % 1000 // 10}"


def gpu_name(index: int) -> GpuName:
    """The GPU at ``index`` of ``gpus``. Raises EngineUnavailableError where the driver doesn't say."""
    driver = libcuda("cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute")
    device, name = _number(driver, "cuDeviceGet", index), ctypes.create_string_buffer(100)
    _check(driver, "cuDeviceGetName", driver.cuDeviceGetName(name, len(name), device))
    capability = (_number(driver, "cuDeviceGetAttribute", entry, device) for entry in _COMPUTE_CAPABILITY)
    return GpuName(name.value.decode(errors="replace"), ".".join(map(str, capability)))


def _number(driver: Any, call: str, *arguments: int) -> int:
    """What ``call`` writes to the number that its first argument points to."""
    number = ctypes.c_int()
    _check(driver, call, getattr(driver, call)(ctypes.byref(number), *arguments))
    return number.value


def _check(driver: Any, call: str, code: int) -> None:
    if code != 0:
        raise EngineUnavailableError(
            f"{call} failed with {error_name(driver, code)}; see what nvidia-smi says"
        )
