"""Which engine is taken."""

import platform
import sys

import pytest

from engines import gpu
from engines.choose import choose_engine
from engines.errors import EngineUnavailableError
from engines.gpu import Gpus
from tests.tensorrt_double.builder import tensorrt_double


def machine(monkeypatch: pytest.MonkeyPatch, tensorrt: str | None, gpus: Gpus) -> None:
    double = None if tensorrt is None else tensorrt_double(tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
    monkeypatch.setattr(gpu, "gpus", lambda: gpus)


def test_auto_takes_tensorrt_where_a_gpu_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "10.16.1", Gpus(1, ""))
    assert choose_engine() == ("tensorrt", "auto: TensorRT 10.16.1, 1 GPU")
    machine(monkeypatch, "11.0.0", Gpus(2, ""))
    assert choose_engine("auto") == ("tensorrt", "auto: TensorRT 11.0.0, 2 GPUs")


def test_auto_takes_onnxruntime_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None, Gpus(1, ""))
    assert choose_engine() == (
        "onnxruntime",
        "auto: TensorRT is not installed here, ONNX Runtime runs on any CPU",
    )
    machine(monkeypatch, "10.16.1", Gpus(0, "no NVIDIA driver is installed here"))
    name, reason = choose_engine()
    assert name == "onnxruntime"
    assert "none answers: no NVIDIA driver is installed here, ONNX Runtime" in reason
    assert "\n" not in reason


def test_onnxruntime_by_name() -> None:
    assert choose_engine("onnxruntime").name == "onnxruntime"


def test_tensorrt_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "10.16.1", Gpus(1, ""))
    assert choose_engine("tensorrt") == ("tensorrt", "asked for; TensorRT 10.16.1, 1 GPU")


def test_tensorrt_that_is_missing_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None, Gpus(1, ""))
    with pytest.raises(EngineUnavailableError, match=r'pip install "zscgan-convert\[tensorrt\]"'):
        choose_engine("tensorrt")


def test_tensorrt_without_a_gpu_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "10.16.1", Gpus(0, "the NVIDIA driver finds no GPU"))
    with pytest.raises(EngineUnavailableError, match=r"finds no GPU; take --engine onnxruntime"):
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
