"""TensorRT 10 and 11, by a double of their builders: loading, options, calibration."""

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from engines.errors import BuildError, EngineUnavailableError
from engines.options import BuildOptions
from engines.tensorrt.library import engine_from_onnx, has_calibrators, load_tensorrt, require_calibrators
from tests.engines.networks import Net, small_network
from tests.tensorrt_double.builder import Machine, plan_header, plan_model, tensorrt_double
from tests.tensorrt_double.calibration import IInt8EntropyCalibrator2

VERSIONS = ("10.0.1", "10.16.1", "11.0.0")


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return installed(monkeypatch, request.param)


@pytest.fixture
def trt10(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return installed(monkeypatch, "10.16.1")


def installed(
    monkeypatch: pytest.MonkeyPatch, version: str, machine: Machine | None = None
) -> SimpleNamespace:
    double = tensorrt_double(version, machine)
    monkeypatch.setitem(sys.modules, "tensorrt", double)  # type: ignore[arg-type]
    return double


@pytest.fixture
def qdq(tmp_path: Path) -> Path:
    onnx.save(small_network(), tmp_path / "qdq.onnx")
    return tmp_path / "qdq.onnx"


def float_network(batch: int | str = "batch") -> onnx.ModelProto:
    net = Net()
    model = net.model(net.node("Relu", net.node("Add", "input", net.constant(net.images(1)))))
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    if isinstance(batch, int):
        dim.dim_value = batch
    return model


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    onnx.save(float_network(), tmp_path / "fp32.onnx")
    return tmp_path / "fp32.onnx"


class Calibrator(IInt8EntropyCalibrator2):
    """Three batches of four images; keeps its exception, as TensorRT swallows it."""

    def __init__(self, *, error: Exception | None = None, batch: int = 4) -> None:
        IInt8EntropyCalibrator2.__init__(self)
        self.left, self.error, self.batch = 3, error, batch
        self.caught: Exception | None = None
        self.cache = b""

    def get_batch_size(self) -> int:
        return self.batch

    def get_batch(self, names: list[str]) -> list[int] | None:
        if self.error is not None:
            self.caught = self.error
            return None
        self.left -= 1
        return [1 << 20] * len(names) if self.left >= 0 else None

    def read_calibration_cache(self) -> bytes | None:
        return None

    def write_calibration_cache(self, cache: memoryview) -> None:
        self.cache = bytes(cache)

    def raise_error(self) -> None:
        if self.caught is not None:
            raise self.caught


def test_plan_is_strongly_typed_and_keeps_layer_names(trt: SimpleNamespace, qdq: Path) -> None:
    plan = engine_from_onnx(qdq, qdq.with_name("out") / "net.plan")
    header = plan_header(plan)
    assert header["version"] == trt.__version__
    assert header["strongly_typed"]
    assert header["flags"] == []
    assert header["profiling_verbosity"] == "DETAILED"
    shapes = [[1, 3, 8, 8], [8, 3, 8, 8], [32, 3, 8, 8]]
    assert header["profiles"] == [{"input": shapes}]
    assert plan_model(plan) == onnx.load(qdq)
    assert [path.name for path in plan.parent.iterdir()] == ["net.plan"]


def test_half_precision_is_in_the_network_and_not_in_flags(trt: SimpleNamespace, qdq: Path) -> None:
    plan = engine_from_onnx(qdq, qdq.with_suffix(".plan"), BuildOptions(fp16=True))
    assert plan_header(plan)["flags"] == []
    kinds = {tensor.data_type for tensor in plan_model(plan).graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}
    assert onnx.load(qdq).graph.initializer[0].data_type == onnx.TensorProto.FLOAT


def test_options_are_set_by_name(trt10: SimpleNamespace, qdq: Path) -> None:
    options = BuildOptions(
        min_batch=2,
        opt_batch=4,
        max_batch=6,
        workspace_mib=512,
        builder_level=5,
        version_compatible=True,
        hardware_compatible="ampere+",
        refit=True,
    )
    header = plan_header(engine_from_onnx(qdq, qdq.with_suffix(".plan"), options))
    assert header["flags"] == ["REFIT", "VERSION_COMPATIBLE"]
    assert header["workspace"] == 512 << 20
    assert header["builder_optimization_level"] == 5
    assert header["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert [shape[0] for shape in header["profiles"][0]["input"]] == [2, 4, 6]


def test_unset_options_leave_the_defaults(trt10: SimpleNamespace, qdq: Path) -> None:
    header = plan_header(engine_from_onnx(qdq, qdq.with_suffix(".plan")))
    assert header["workspace"] == trt10.machine.workspace_limit
    assert header["builder_optimization_level"] == 3
    assert header["hardware_compatibility_level"] == "NONE"


def test_option_that_a_version_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch, qdq: Path) -> None:
    options = BuildOptions(hardware_compatible="same")
    installed(monkeypatch, "11.0.0")
    header = plan_header(engine_from_onnx(qdq, qdq.with_suffix(".plan"), options))
    assert header["hardware_compatibility_level"] == "SAME_COMPUTE_CAPABILITY"
    installed(monkeypatch, "10.0.1")
    with pytest.raises(
        BuildError, match=r"TensorRT 10\.0\.1 does not support --hardware-compatible same .*SAME"
    ):
        engine_from_onnx(qdq, qdq.with_suffix(".plan"), options)


def test_workspace_that_is_refused_is_an_error(trt: SimpleNamespace, qdq: Path) -> None:
    with pytest.raises(BuildError, match="--workspace 999999"):
        engine_from_onnx(qdq, qdq.with_suffix(".plan"), BuildOptions(workspace_mib=999_999))


def test_calibrator_builds_a_weakly_typed_int8_network(trt10: SimpleNamespace, fp32: Path) -> None:
    calibrator = Calibrator()
    header = plan_header(engine_from_onnx(fp32, fp32.with_suffix(".plan"), calibrator=calibrator))
    assert not header["strongly_typed"]
    assert header["flags"] == ["INT8"]
    assert header["calibrated"]
    # The images come in fours, whatever the profile of the plan.
    assert header["calibration_profile"] == {"input": [[4, 3, 8, 8]] * 3}
    assert [shape[0] for shape in header["profiles"][0]["input"]] == [1, 8, 32]
    assert calibrator.left == -1
    assert calibrator.cache.startswith(b"TRT-")


def test_calibrator_with_half_precision_sets_both_flags(trt10: SimpleNamespace, fp32: Path) -> None:
    plan = engine_from_onnx(fp32, fp32.with_suffix(".plan"), BuildOptions(fp16=True), calibrator=Calibrator())
    assert plan_header(plan)["flags"] == ["FP16", "INT8"]
    assert plan_model(plan) == onnx.load(fp32)


def test_calibrators_exception_comes_out_and_nothing_is_written(trt10: SimpleNamespace, fp32: Path) -> None:
    plan = fp32.with_suffix(".plan")
    with pytest.raises(ZeroDivisionError, match="in the third batch"):
        engine_from_onnx(fp32, plan, calibrator=Calibrator(error=ZeroDivisionError("in the third batch")))
    assert not plan.exists()


def test_calibrator_and_pairs_do_not_mix(trt10: SimpleNamespace, qdq: Path) -> None:
    with pytest.raises(BuildError, match=r"without Q/DQ .*has 1\d such nodes; take model\.fp32\.onnx"):
        engine_from_onnx(qdq, qdq.with_suffix(".plan"), calibrator=Calibrator())


def test_calibrator_needs_tensorrt_10(monkeypatch: pytest.MonkeyPatch, fp32: Path) -> None:
    trt10 = installed(monkeypatch, "10.16.1")
    assert has_calibrators(trt10)  # type: ignore[arg-type]
    assert require_calibrators() is trt10
    assert not has_calibrators(installed(monkeypatch, "11.0.0"))  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=r'11\.0\.0 takes no calibrator.*pip install "tensorrt<11"'):
        engine_from_onnx(fp32, fp32.with_suffix(".plan"), calibrator=Calibrator())
    with pytest.raises(BuildError, match="takes no calibrator"):
        require_calibrators()


@pytest.mark.parametrize("batch", [4, 8])
def test_fixed_batch_has_to_be_the_calibrators(trt10: SimpleNamespace, tmp_path: Path, batch: int) -> None:
    onnx.save(float_network(batch), tmp_path / "fixed.onnx")
    arguments: dict[str, Any] = {"calibrator": Calibrator(batch=4)}
    if batch == 4:
        plan = engine_from_onnx(tmp_path / "fixed.onnx", tmp_path / "net.plan", **arguments)
        assert plan_header(plan)["calibration_profile"] is None
    else:
        with pytest.raises(BuildError, match="fixed batch of 8, but the calibrator gives batches of 4"):
            engine_from_onnx(tmp_path / "fixed.onnx", tmp_path / "net.plan", **arguments)


def test_missing_tensorrt_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailableError, match=r'not installed here; type pip install .*\[tensorrt\]"'):
        load_tensorrt()


def test_stubs_alone_are_not_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("class Builder: ...\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=r"has no Builder \(type stubs\?\)"):
        load_tensorrt()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise FileNotFoundError('libnvinfer.so.10 is missing')", r"libnvinfer\.so\.10 is missing"),
        ("raise ImportError('libcudart.so.12: cannot open')", "cannot open"),
        ("import surely_missing_module", "surely_missing_module"),
    ],
)
def test_broken_installation_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, reason: str
) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(code)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=rf"can't be loaded.*{reason}.*pip install"):
        load_tensorrt()


def test_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.Builder, old.__version__ = object, "8.6.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(EngineUnavailableError, match=r"TensorRT 10 or newer, but 8\.6\.1 is installed"):
        load_tensorrt()


def test_builder_without_a_gpu_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, qdq: Path, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch, "10.16.1", Machine(gpu=None))
    with pytest.raises(EngineUnavailableError, match=r"CUDA initialization failure.*nvidia-smi"):
        engine_from_onnx(qdq, qdq.with_suffix(".plan"))
    assert caplog.records[-1].name == "engines.tensorrt.library"
    assert caplog.records[-1].levelno == logging.ERROR
