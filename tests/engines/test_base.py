"""Which engine is taken."""

import platform

import pytest

from engines.base import choose_engine
from engines.errors import EngineUnavailableError


def test_auto_takes_onnxruntime_and_says_why() -> None:
    name, reason = choose_engine("auto")
    assert name == "onnxruntime"
    assert "TensorRT" in reason
    assert "\n" not in reason


def test_onnxruntime_by_name() -> None:
    assert choose_engine("onnxruntime").name == "onnxruntime"


def test_tensorrt_by_name_points_to_trtexec() -> None:
    with pytest.raises(EngineUnavailableError, match=r"trtexec --onnx=model\.int8\.onnx"):
        choose_engine("tensorrt")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT for RTX has wheels for x86-64 only")
def test_tensorrt_rtx_by_name() -> None:
    assert choose_engine("tensorrt-rtx").name == "tensorrt-rtx"


def test_tensorrt_rtx_that_is_missing_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineUnavailableError, match="pip install"):
        choose_engine("tensorrt-rtx")


def test_unknown_name_lists_the_engines() -> None:
    with pytest.raises(EngineUnavailableError, match="auto, onnxruntime, tensorrt, tensorrt-rtx"):
        choose_engine("tensorflow")
