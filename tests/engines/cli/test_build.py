"""zscgan-build from the outside, TensorRT's side by the doubles."""

import platform
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from engines.cli.bench import bench
from engines.cli.build import build
from engines.errors import EngineUnavailableError
from engines.onnxruntime.fastest import Choice
from tests.engines.commands import run
from tests.tensorrt_double.builder import plan_header
from tests.tensorrt_double.machine import DoubleMachine, machine_with_tensorrt

QUICK = ["--warmup-ms", "0", "--duration-s", "0.01", "--threads", "1"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> DoubleMachine:
    return machine_with_tensorrt(monkeypatch)


def test_build_onnxruntime(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(build, files[1], "-o", tmp_path / "engine.onnx", "--cpu-int8", "all")
    assert result.exit_code == 0, result.output
    assert "3 of 3 convolutions in INT8" in result.stderr
    assert "next: zscgan-bench" in result.stderr
    assert run(bench, tmp_path / "engine.onnx", *QUICK).exit_code == 0


def test_layers_that_are_faster_in_float_stay_so(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest: dict[str, bytes] = {}

    def choice(model: onnx.ModelProto, engine: Path) -> Choice:
        fastest["all INT8"] = engine.read_bytes()
        layers = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
        return Choice(len(layers), tuple(layers[:1]), {1: 1.5}, {1: 0.5}, 3)

    monkeypatch.setattr("engines.onnxruntime.fastest.fastest_choice", choice)
    result = run(build, files[1], "-o", tmp_path / "engine.onnx")
    assert result.exit_code == 0, result.output
    assert "2 of 3 convolutions in INT8, 1 of 3 layers in float, which is faster here" in result.stderr
    assert (tmp_path / "engine.onnx").read_bytes() != fastest["all INT8"]


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_detector_is_built_and_measured(
    engine: str, detector_file: Path, machine: DoubleMachine, tmp_path: Path
) -> None:
    out = tmp_path / ("engine.onnx" if engine == "onnxruntime" else "engine.plan")
    result = run(build, detector_file, "-o", out, "--engine", engine)
    assert result.exit_code == 0, result.output
    result = run(bench, out, *(QUICK if engine == "onnxruntime" else QUICK[:4]))
    assert result.exit_code == 0, result.output


@pytest.mark.skipif(platform.machine() != "x86_64", reason="TensorRT for RTX has wheels for x86-64 only")
def test_build_and_refuse_to_run_rtx(files: tuple[str, str], tmp_path: Path) -> None:
    plan = tmp_path / "net.plan"
    shapes = ["--min-shapes", "input:1x3x8x8", "--opt-shapes", "4x3x8x8", "--max-shapes", "8"]
    result = run(
        build, files[1], "-o", plan, "--engine", "tensorrt-rtx", "--compute-capability", "8.9", *shapes
    )
    assert result.exit_code == 0, result.output
    assert plan.stat().st_size > 0
    result = run(bench, plan)
    assert result.exit_code == 1
    assert "is a plan of tensorrt-rtx, which needs an NVIDIA GPU" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "tensorrt-rtx", "--compute-capability", "9.0"], "data-centre"),
        (["--compute-capability", ","], "at least one"),
        (["--engine", "tensorflow"], "onnxruntime"),
        (["--min-shapes", "0"], "--min-shapes like 8"),
        (["--min-shapes", "9", "--opt-shapes", "8"], "<= --opt-shapes"),
    ],
)
def test_build_usage_errors(
    files: tuple[str, str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run(build, files[1], "-o", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flag", [["--fp16"], ["--refit"], ["--workspace", "64"], ["--timing-cache", "t.cache"]]
)
def test_tensorrt_flags_are_refused_for_onnxruntime(
    files: tuple[str, str], tmp_path: Path, flag: list[str]
) -> None:
    result = run(build, files[1], "-o", tmp_path / "out", *flag)
    assert result.exit_code == 2
    assert f"{flag[0]} is TensorRT's" in result.stderr
    assert not (tmp_path / "out").exists()


def test_layers_of_a_cpu_engine_are_not_tensorrts(
    files: tuple[str, str], machine: DoubleMachine, tmp_path: Path
) -> None:
    result = run(build, files[1], "-o", tmp_path / "net.plan", "--engine", "tensorrt", "--cpu-int8", "all")
    assert result.exit_code == 0, result.output
    assert "warning: --cpu-int8 has no effect on tensorrt" in result.stderr


def test_a_profile_for_onnxruntime_is_warned_of(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(build, files[1], "-o", tmp_path / "out", "--max-shapes", "64")
    assert result.exit_code == 0
    assert "warning: --max-shapes has no effect on onnxruntime" in result.stderr


def test_build_with_tensorrt(files: tuple[str, str], tmp_path: Path, machine: DoubleMachine) -> None:
    plan, cache = tmp_path / "net.plan", tmp_path / "timing.cache"
    flags = ["--version-compatible", "--hardware-compatible", "ampere+", "--refit", "--timing-cache", cache]
    result = run(build, files[1], "-o", plan, "--engine", "tensorrt", *flags)
    assert result.exit_code == 0, result.output
    header = plan_header(plan)
    assert header["flags"] == ["REFIT", "VERSION_COMPATIBLE"]
    assert header["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert cache.exists()
    assert "net.plan.log" in result.stderr
    assert "Engine generation completed" in (tmp_path / "net.plan.log").read_text()
    assert "in INT8" in result.stderr
    assert f"next: zscgan-bench {plan} --batch 8" in result.stderr


def test_a_plan_that_can_not_be_opened_is_built_all_the_same(
    files: tuple[str, str], tmp_path: Path, machine: DoubleMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_answers(_name: str) -> None:
        raise EngineUnavailableError("PyTorch is built without CUDA")

    monkeypatch.setattr("engines.tensorrt.engine.open_device", none_answers)
    result = run(build, files[1], "-o", tmp_path / "net.plan", "--engine", "tensorrt")
    assert result.exit_code == 0, result.output
    assert "warning: the plan is built, but can't be inspected" in result.stderr
    assert "PyTorch is built without CUDA" in result.stderr
    assert "layers unknown" in result.stderr
    assert plan_header(tmp_path / "net.plan")["strongly_typed"]


def test_a_failed_build_leaves_its_log(
    files: tuple[str, str], tmp_path: Path, machine: DoubleMachine
) -> None:
    machine.trt.machine.fails = True
    result = run(
        build, files[1], "-o", tmp_path / "net.plan", "--engine", "tensorrt", "--log", tmp_path / "log"
    )
    assert result.exit_code == 1
    assert "Could not find any implementation for node conv4" in result.stderr
    assert "Could not find any implementation" in (tmp_path / "log").read_text()
    assert not (tmp_path / "net.plan").exists()


def test_tensorrt_that_is_missing_names_the_installation(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(build, files[1], "-o", tmp_path / "net.plan", "--engine", "tensorrt")
    assert result.exit_code == 1
    assert 'pip install "zscgan-convert[tensorrt]"' in result.stderr
    assert list(tmp_path.glob("net.plan*")) == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from engines.cli.build import build\n"
        "try: build(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt_rtx_bindings', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[default: " in done.stdout
