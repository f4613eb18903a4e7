"""zscgan-bench from the outside."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engines.choose import EngineChoice
from engines.cli.bench import bench
from engines.onnxruntime import engine as onnxruntime
from tests.engines.commands import run
from tests.engines.networks import small_network
from tests.tensorrt_double.memory import HostDevice
from tests.tensorrt_double.nvml import Nvml
from tests.tensorrt_double.runtime import plan_of, runtime_double

QUICK_ON_GPU = ["--warmup-ms", "0", "--duration-s", "0.01"]
QUICK = ["--warmup-ms", "0", "--duration-s", "0.01", "--threads", "1"]


def test_bench_compares_in_a_table(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = run(bench, *files, "--batch", "1,2", *QUICK)
    assert result.exit_code == 0, result.output
    rows = result.stdout.splitlines()
    assert "images/s" in rows[0]
    assert "p99 ms" in rows[0]
    assert len(rows) == 5
    assert rows[1].endswith("1.00x")
    assert "Random input" in result.stderr
    assert "PASSED" in result.stderr


def test_the_table_folds_names_of_files_and_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    name = f"{'network_' * 5}.onnx"
    shutil.copy(files[0], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    head, *rows = run(bench, name, *QUICK).stdout.splitlines()
    assert max(map(len, [head, *rows])) <= 80
    assert head.split()[-4:] == ["ms", "p99", "ms", "ratio"]
    assert rows[0].endswith("1.00x")
    assert "".join(row.split()[0] for row in rows) == name
    many = run(bench, name, "--percentile", ",".join(map(str, range(50, 70))), *QUICK).stdout
    assert all(f"p{number} ms" in many.splitlines()[0] for number in range(50, 70))
    assert "…" not in many


def test_bench_json_alone_on_stdout(files: tuple[str, str]) -> None:
    result = run(bench, *files, "--percentile", "50,99.9", "--json", *QUICK)
    report = json.loads(result.stdout)
    assert report["input"] == "random"
    assert [row["precision"] for row in report["throughput"]] == ["fp32", "int8"]
    assert list(report["throughput"][0]["latency_ms"]) == ["median", "p50", "p99.9"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.onnx"], 1, "absent.onnx is missing"),
        ([], 2, "FILE"),
        (["absent.plan"], 1, "absent.plan is missing"),
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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    """Doubles of TensorRT and of a GPU, which ``auto`` then takes."""
    trt, device = runtime_double(), HostDevice()
    monkeypatch.setattr("engines.tensorrt.library.load_tensorrt", lambda: trt)
    monkeypatch.setattr("engines.bench.open.open_device", lambda name: device)
    choice = EngineChoice("tensorrt", "auto: TensorRT 10.16.1, 1 GPU")
    monkeypatch.setattr("engines.bench.open.choose_engine", lambda name: choice)
    return device


def test_bench_of_a_plan(gpu: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    result = run(bench, tmp_path / "net.plan", "--batch", "1,8", *QUICK_ON_GPU)
    assert result.exit_code == 0, result.output
    assert (
        "On Double GPU, memory by host: with transfers, without CUDA graph: the defaults of trtexec 10."
        in (result.stderr)
    )
    assert "the GPU's clocks are not noted" in result.stderr
    head, *rows = result.stdout.splitlines()
    assert head.split()[:4] == ["file", "precision", "batch", "images/s"]
    assert [row.split()[1:3] for row in rows[:2]] == [["int8", "1"], ["int8", "8"]]
    assert rows[3].split()[3:] == ["batch", "enqueue", "h2d", "gpu", "compute", "d2h"]
    assert rows[5].split()[1] == "8"
    assert rows[5].split()[3:] == ["1.000", "4.000", "2.000"]  # after the host's enqueue time
    assert gpu.leaks == 0
    assert gpu.is_closed


def test_bench_warns_of_clocks_that_are_held_down_while_it_measures(
    gpu: HostDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What NVML says to the thread that measures, before and after, is that the GPU is idle."""
    nvml, measuring = Nvml(), threading.current_thread()
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = lambda: (
        0x1 if threading.current_thread() is measuring else 0x40
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    result = run(bench, tmp_path / "net.plan", "--json", *QUICK_ON_GPU)
    assert re.search(
        r"warning: the GPU's clocks were held down in 100 % of .* hw_thermal_slowdown", result.stderr
    )
    entry = json.loads(result.stdout)["gpu"]
    assert [entry[when]["clock_limits"] for when in ("before", "after")] == [["gpu_idle"], ["gpu_idle"]]
    assert entry["during"]["clock_limits_percent"] == {"hw_thermal_slowdown": 100.0}
    assert entry["during"]["sm_clock_mhz"] == {"min": 1400, "median": 1400, "max": 1400}
    assert entry["during"]["samples"] >= 1
    assert nvml.open == 0


def test_bench_json_of_a_plan(gpu: HostDevice, tmp_path: Path) -> None:
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    flags = ["--cuda-graph", "--no-transfers", "--streams", "2", "--percentile", "90", "--json"]
    gpu.h2d_ms = 50.0  # not counted
    result = run(bench, tmp_path / "net.plan", *flags, *QUICK_ON_GPU)
    report = json.loads(result.stdout)
    (row,) = report["throughput"]
    assert row["engine"] == "tensorrt"
    assert list(row["parts_ms"]) == ["enqueue", "gpu_compute"]
    assert list(row["parts_ms"]["gpu_compute"]) == ["min", "max", "mean", "median", "p90"]
    assert gpu.launches > 0
    entry = report["gpu"]
    assert (entry["cuda_graph"], entry["transfers"], entry["streams"]) == (True, False, 2)
    assert "trtexec 11" in entry["rules"]
    assert entry["before"] is None
    assert "clocks are not noted" in entry["state_reason"]
    assert ", 2 streams." in result.stderr


def test_bench_tells_what_limits_the_figures(gpu: HostDevice, tmp_path: Path) -> None:
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    gpu.h2d_ms = 5.0
    result = run(bench, tmp_path / "net.plan", "--json", *QUICK_ON_GPU)
    assert "net.plan, batch 1: the transfer of the input" in result.stderr
    assert len(json.loads(result.stdout)["throughput"][0]["warnings"]) == 1


def test_bench_builds_onnx_where_a_gpu_is(gpu: HostDevice, files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    result = run(bench, *files, tmp_path / "net.plan", "--batch", "2,4", "--json", *QUICK_ON_GPU)
    assert result.exit_code == 0, result.output
    assert "int8.onnx: tensorrt (auto: TensorRT 10.16.1, 1 GPU)" in result.stderr
    assert "int8.onnx: tensorrt builds a plan for batches 2 to 4, fastest for 4" in result.stderr
    rows = json.loads(result.stdout)["throughput"]
    assert [row["engine"] for row in rows] == ["tensorrt"] * 6
    assert [row["batch"] for row in rows] == [2, 2, 2, 4, 4, 4]
    assert gpu.leaks == 0


def test_bench_of_an_onnxruntime_engine_beside_a_plan(
    gpu: HostDevice, files: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    onnxruntime.build(files[1], tmp_path / "engine.onnx")
    arguments = [tmp_path / "net.plan", tmp_path / "engine.onnx", "--cuda-graph", "--threads", "1"]
    result = run(bench, *arguments, "--json", *QUICK_ON_GPU[:4], "--percentile", "90")
    assert result.exit_code == 0, result.output
    assert "engine.onnx: onnxruntime, since it is an engine of ONNX Runtime" in result.stderr
    assert f"warning: --cuda-graph only for what runs on the GPU, not for {tmp_path / 'engine.onnx'}" in (
        result.stderr
    )
    plan, engine = json.loads(result.stdout)["throughput"]
    assert (plan["engine"], engine["engine"]) == ("tensorrt", "onnxruntime")
    assert "parts_ms" in plan
    assert "parts_ms" not in engine
    assert "warnings" not in engine


def test_bench_of_a_version_compatible_plan(gpu: HostDevice, tmp_path: Path) -> None:
    (tmp_path / "net.plan").write_bytes(plan_of(small_network(), "10.3.0", flags=["VERSION_COMPATIBLE"]))
    refused = run(bench, tmp_path / "net.plan", *QUICK_ON_GPU)
    assert refused.exit_code == 1
    assert "--version-compatible" in refused.stderr
    assert "Traceback" not in refused.output
    gpu.is_closed = False
    allowed = run(bench, tmp_path / "net.plan", "--version-compatible", *QUICK_ON_GPU)
    assert allowed.exit_code == 0, allowed.output


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["PLAN", "--engine", "onnxruntime"], "net.plan is a plan of TensorRT, got --engine onnxruntime"),
        (["RTX", "--engine", "tensorrt"], "rtx.plan is a plan of tensorrt-rtx, got --engine tensorrt"),
        (["PLAN", "--threads", "2"], "--threads is for the CPU"),
        (["FP32", "--version-compatible"], "--version-compatible is for plans, but none is given"),
        (["PLAN", "--streams", "0"], "--streams of at least 1"),
        (["PLAN", "--buffers", "cupy"], "'cupy' is not one of 'auto', 'pycuda', 'torch'"),
    ],
)
def test_bench_flags_that_would_mean_nothing(
    gpu: HostDevice, files: tuple[str, str], tmp_path: Path, given: list[str], message: str
) -> None:
    (tmp_path / "net.plan").write_bytes(plan_of(small_network()))
    (tmp_path / "rtx.plan").write_bytes(b"vtrt" + bytes(100))
    names = {"PLAN": str(tmp_path / "net.plan"), "RTX": str(tmp_path / "rtx.plan"), "FP32": files[0]}
    result = run(bench, *[names.get(argument, argument) for argument in given])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace(str(tmp_path) + "/", "").split())


@pytest.mark.parametrize(
    "flags",
    [
        ["--cuda-graph"],
        ["--no-transfers"],
        ["--streams", "2"],
        ["--buffers", "torch"],
        ["--version-compatible"],
    ],
)
def test_gpu_flags_are_refused_on_a_cpu(files: tuple[str, str], flags: list[str]) -> None:
    result = run(bench, files[0], "--engine", "onnxruntime", *flags, *QUICK)
    assert result.exit_code == 2
    assert f"{flags[0]} is not supported on the CPU" in result.stderr


def test_bench_says_why_it_measures_on_the_cpu(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = EngineChoice("onnxruntime", "auto: TensorRT is not installed here")
    monkeypatch.setattr("engines.bench.open.choose_engine", lambda name: choice)
    result = run(bench, files[0], *QUICK)
    assert f"{files[0]}: onnxruntime (auto: TensorRT is not installed here)" in result.stderr
    report = json.loads(run(bench, files[0], "--json", *QUICK).stdout)
    assert "gpu" not in report
    assert list(report["throughput"][0]) == [
        "file", "engine", "precision", "batch", "images_per_s", "latency_ms", "iterations", "ratio",
    ]  # fmt: skip


def test_interrupt(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("engines.bench.compare.compare", interrupted)
    assert run(bench, files[0]).exit_code == 130


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from engines.cli.bench import bench\n"
        "try: bench(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt_rtx_bindings', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[default: " in done.stdout
