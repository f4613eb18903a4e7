"""TensorRT's plugins are registered where there are any."""

from types import SimpleNamespace
from typing import Any

from engines.tensorrt.plugins import load_plugins


def test_plugins_are_registered_where_the_library_has_them() -> None:
    seen: list[tuple[Any, str]] = []
    trt: Any = SimpleNamespace(init_libnvinfer_plugins=lambda *given: seen.append(given))
    load_plugins(trt, "log")
    load_plugins(SimpleNamespace(), "log")  # type: ignore[arg-type]
    assert seen == [("log", "")]
