"""``--engine tensorrt`` by the doubles of TensorRT, a GPU and its memory: what is built, kept, told and refused."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from calibrators.ranges.cache_file import cache_from_text, ranges_from_cache
from calibrators.ranges.ranges import load_ranges
from converter.cli.convert import command
from engines.tensorrt.library import engine_from_onnx
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions
from tests.tensorrt_double.builder import plan_header, plan_model
from tests.tensorrt_double.machine import DoubleMachine, machine_with_tensorrt

SHORT = [
    "--int8",
    "--gan-steps",
    "12",
    "--calib-samples",
    "64",
    "--val",
    str(DIGITS / "test.npz"),
    "-o",
    "out",
]

Convert = Callable[..., Result]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Convert]:
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> Result:
        return CliRunner().invoke(command, [*MODEL, *INPUT, *SHORT, *flags])

    with quick_conversions():
        yield run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> DoubleMachine:
    return machine_with_tensorrt(monkeypatch)


def report() -> dict:
    content: dict = json.loads(Path("out/report.json").read_text())
    return content


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``emptied`` and ``built`` in the order in which PyTorch's cache was emptied and TensorRT built."""
    happened: list[str] = []

    def build(*given: object, **named: object) -> Path:
        happened.append("built")
        return engine_from_onnx(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: happened.append("emptied"))
    monkeypatch.setattr("engines.tensorrt.library.engine_from_onnx", build)
    return happened


def test_auto_builds_the_pairs_with_tensorrt(
    convert: Convert, machine: DoubleMachine, events: list[str]
) -> None:
    result = convert(
        "--max-shapes", "16", "--workspace", "512", "--builder-level", "2", "--trt-version", "10.3.0"
    )
    assert result.exit_code == 0, result.output
    assert "engine: tensorrt (auto: TensorRT 10.16.1, 1 GPU)" in result.output

    header = plan_header(Path("out/model.tensorrt.plan"))
    assert header["strongly_typed"]
    assert header["flags"] == []
    assert header["workspace"] == 512 << 20
    assert header["builder_optimization_level"] == 2
    assert header["profiles"][0]["input"] == [[1, 1, 8, 8], [8, 1, 8, 8], [16, 1, 8, 8]]
    operators = {node.op_type for node in plan_model(Path("out/model.tensorrt.plan")).graph.node}
    assert "QuantizeLinear" in operators

    found = report()
    assert found["engine"]["name"] == "tensorrt"
    assert found["engine"]["precision"] == "int8"
    measured = [(row["engine"], row["batch"], row["precision"]) for row in found["throughput"]]
    assert measured == [
        ("tensorrt", batch, precision) for batch in (1, 8) for precision in ("fp32", "fp16", "int8")
    ]
    assert found["accuracy"]["agreement"] > 90
    assert found["device"]["measured_on"]["name"] == "Double GPU"
    assert found["throughput"][0]["parts_ms"].keys() == {"enqueue", "h2d", "gpu_compute", "d2h"}
    assert Path(found["artifacts"]["tensorrt.log"]).read_text()
    assert Path("out/calibration.cache").read_text().startswith("TRT-100300-")
    assert found["calibration"]["cache_version"] == "10.3.0"
    assert "note: calibration.cache" not in result.output
    assert re.search(r"^  speed +TensorRT on .+, images/s:$", result.output, re.MULTILINE)
    assert "batch 8: FP32" in result.output
    assert "was not measured here" not in result.output
    assert all(device.is_closed and device.leaks == 0 for device in machine.devices)
    # The engine, then FP32 and FP16 to compare with.
    assert events == ["emptied", "built", "emptied", "built", "built"]


def test_fp16_is_written_into_the_network(convert: Convert, machine: DoubleMachine) -> None:
    assert convert("--engine", "tensorrt", "--fp16").exit_code == 0
    header = plan_header(Path("out/model.tensorrt.plan"))
    assert header["strongly_typed"]
    assert header["flags"] == []
    types = {t.data_type for t in plan_model(Path("out/model.tensorrt.plan")).graph.initializer}
    assert 10 in types  # FLOAT16
    assert 1 not in types  # FLOAT


def test_implicit_has_tensorrt_calibrate(convert: Convert, machine: DoubleMachine) -> None:
    result = convert("--engine", "tensorrt", "--implicit", "--fp16")
    assert result.exit_code == 0, result.output
    header = plan_header(Path("out/model.tensorrt.plan"))
    assert not header["strongly_typed"]
    assert header["calibrated"]
    assert header["flags"] == ["FP16", "INT8"]
    assert header["calibration_profile"]["input"] == [[64, 1, 8, 8]] * 3
    operators = {node.op_type for node in plan_model(Path("out/model.tensorrt.plan")).graph.node}
    assert "QuantizeLinear" not in operators

    (calibration,) = machine.calibrations
    assert [batch.shape for batch in calibration.batches] == [(64, 1, 8, 8)]
    cache = Path("out/calibration.tensorrt.cache")
    assert set(cache_from_text(cache.read_text()).scales) == {"input", "relu"}
    ours = load_ranges(Path("out/calibration.json"))
    assert ours.fingerprint is not None
    theirs = ranges_from_cache(cache, fingerprint=ours.fingerprint)
    assert (theirs.samples, theirs.source, theirs.seed) == (64, ours.source, ours.seed) == (64, "zscgan", 0)
    assert all(device.is_closed for device in machine.devices)


def test_implicit_is_refused_by_tensorrt_11(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with_tensorrt(monkeypatch, "11.0.0")
    result = convert("--implicit")
    assert result.exit_code == 1
    assert "TensorRT 11.0.0 takes no calibrator" in result.output
    assert "model.int8.onnx" in result.output
    assert not Path("out").exists()
    assert convert().exit_code == 0


def test_a_failed_build_keeps_its_log_alone(convert: Convert, machine: DoubleMachine) -> None:
    machine.trt.machine.fails = True
    result = convert("--engine", "tensorrt")
    assert result.exit_code == 1
    assert "Could not find any implementation for node conv4" in result.output
    assert "out.tensorrt.log" in result.output
    assert "Could not find any implementation" in Path("out.tensorrt.log").read_text()
    assert not Path("out").exists()


def test_batches_are_cut_to_the_profile(convert: Convert, machine: DoubleMachine) -> None:
    result = convert("--engine", "tensorrt", "--min-shapes", "16", "--opt-shapes", "16", "--max-shapes", "16")
    assert result.exit_code == 0, result.output
    assert {row["batch"] for row in report()["throughput"]} == {16}
    assert report()["accuracy"]["images"] == 500


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--fp16"], 2, "--fp16 is TensorRT's, but the engine is ONNX Runtime"),
        (["--refit", "--engine", "onnxruntime"], 2, "--refit is TensorRT's"),
        (["--implicit"], 2, "--implicit is TensorRT 10's own calibration, but the engine is onnxruntime"),
        (["--implicit", "--calibrator", "mse"], 2, "entropy and max"),
        (["--implicit", "--calibration-cache", "a.cache"], 2, "--calibration-cache would not be used"),
        (["--hardware-compatible", "all"], 2, "ampere+"),
        (["--builder-level", "9"], 2, "--builder-level from 0 to 5"),
        (["--engine", "tensorrt"], 1, 'pip install "zscgan-convert[tensorrt]"'),
        (["--engine", "tensorrt-rtx", "--timing-cache", "t.cache"], 2, "does not support --timing-cache"),
    ],
)
def test_refusals(convert: Convert, flags: list[str], code: int, message: str) -> None:
    result = convert(*flags)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not Path("out").exists()
