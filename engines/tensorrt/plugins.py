"""TensorRT's own plugins, such as EfficientNMS_TRT, which networks and plans may name."""

from typing import Any

from engines.tensorrt.api import TensorRT


def load_plugins(trt: TensorRT, log: Any) -> None:
    """Register them, where the library brings any; TensorRT for RTX doesn't."""
    register = getattr(trt, "init_libnvinfer_plugins", None)
    if register is not None:
        register(log, "")
