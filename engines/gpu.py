"""Whether an NVIDIA GPU answers, asked of the driver itself: no PyTorch, no CUDA toolkit."""

import ctypes
from typing import NamedTuple

_DRIVER = "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class Gpus(NamedTuple):
    """How many GPUs this process can use and, where that is none, why."""

    number: int
    reason: str


def gpu_count() -> int:
    """Number of NVIDIA GPUs that this process can use."""
    return gpus().number


def gpus() -> Gpus:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` leaves. Starts the driver, but makes no context on any GPU."""
    try:
        driver = ctypes.CDLL(_DRIVER)
        start, count_devices = driver.cuInit, driver.cuDeviceGetCount
    except (OSError, AttributeError):
        return Gpus(0, f"no NVIDIA driver is installed here ({_DRIVER})")
    count = ctypes.c_int(0)
    status = start(0) or count_devices(ctypes.byref(count))
    if status == _NO_DEVICE or (status == 0 and count.value == 0):
        return Gpus(0, "the NVIDIA driver finds no GPU, or CUDA_VISIBLE_DEVICES hides it")
    if status != 0:
        return Gpus(0, f"the NVIDIA driver does not start (CUDA error {status}); see what nvidia-smi says")
    return Gpus(count.value, "")
