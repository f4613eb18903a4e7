"""zscgan-bench and zscgan-build from the outside."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from engines.cli import bench, build
from tests.engines.networks import Net, small_network

QUICK = ["--warmup-ms", "0", "--duration-s", "0.01", "--threads", "1"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    net = Net()
    onnx.save(net.model(net.node("Relu", "input")), tmp_path / "fp32.onnx")
    onnx.save(small_network(), tmp_path / "int8.onnx")
    return str(tmp_path / "fp32.onnx"), str(tmp_path / "int8.onnx")


def run(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]


def test_bench_compares_in_a_table(files: tuple[str, str]) -> None:
    result = run(bench, *files, "--batch", "1,2", *QUICK)
    assert result.exit_code == 0, result.output
    rows = result.stdout.splitlines()
    assert "images/s" in rows[0]
    assert "p99 ms" in rows[0]
    assert len(rows) == 5
    assert rows[1].endswith("1.00x")
    assert "Random input" in result.stderr
    assert "PASSED" in result.stderr


def test_bench_json_alone_on_stdout(files: tuple[str, str]) -> None:
    result = run(bench, *files, "--percentile", "50,99.9", "--json", *QUICK)
    report = json.loads(result.stdout)
    assert report["input"] == "random"
    assert [row["precision"] for row in report["throughput"]] == ["fp32", "int8"]
    assert list(report["throughput"][0]["latency_ms"]) == ["median", "p50", "p99.9"]


def test_build_onnxruntime(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(build, files[1], "-o", tmp_path / "engine.onnx")
    assert result.exit_code == 0, result.output
    assert "3 of 3 convolutions in INT8" in result.stderr
    assert "next: zscgan-bench" in result.stderr
    assert run(bench, tmp_path / "engine.onnx", *QUICK).exit_code == 0


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
    assert "RTX GPU" in result.stderr


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
    ("arguments", "code", "message"),
    [
        (["absent.onnx"], 1, "absent.onnx is missing"),
        ([], 2, "FILE"),
        (["absent.onnx", "--batch", "0"], 2, "--batch"),
        (["absent.onnx", "--batch", "a"], 2, "expected numbers"),
        (["absent.onnx", "--percentile", "100"], 2, "--percentile"),
    ],
)
def test_bench_refusals(arguments: list[str], code: int, message: str) -> None:
    result = run(bench, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_interrupt(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engines.benchmark.compare", interrupted)
    assert run(bench, files[0]).exit_code == 130


@pytest.mark.parametrize("command", ["bench", "build"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys; from engines.cli import bench, build\n"
        f"try: {command}(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt_rtx_bindings', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[default: " in done.stdout
