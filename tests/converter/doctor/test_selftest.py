"""The self-test: run for real on the CPU, and with engines that fail in every way."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from converter.doctor import cli as doctor
from converter.doctor import selftest
from converter.doctor.cli import command
from converter.doctor.diagnosis import checkup_from_findings
from converter.doctor.isolated_call import ChildError
from converter.doctor.probes import Finding
from converter.doctor.reference import compare_with_references, references_from_model
from converter.doctor.selftest import (
    EXAMPLE,
    Attempt,
    Results,
    Task,
    attempt_in_child,
    convert_and_compare,
    digits_folder,
    results_text,
    selftest_engines,
)
from converter.errors import LoadError
from converter.load.options import ModelOptions
from converter.trust.limits import QDQ_LIMITS, Difference, Limits
from converter.trust.parity import difference
from converter.trust.task.classes import Classes
from engines.errors import EngineError
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter.digits import quick_conversions
from tests.converter.doctor.test_cli import BARE, H100, RTX_6000, on_gpu

ROOT = Path(__file__).parents[3]
WITH_RTX = {**BARE, "tensorrt-rtx": Finding("1.7.1.116", True)}
HAS_RTX = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
CAPABILITIES = ("8.6", "8.9")


def diagnosed(monkeypatch: pytest.MonkeyPatch, findings: dict[str, Finding], *arguments: str) -> Result:
    monkeypatch.setattr(doctor, "ask_all", lambda: findings)
    return CliRunner().invoke(command, ["--selftest", *arguments])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Attempt, Path]]:
    """The example, converted for real for TensorRT for RTX where that is installed; throughput measured briefly."""
    folder = tmp_path_factory.mktemp("selftest") / "digits"
    task = Task("tensorrt-rtx" if HAS_RTX else "onnxruntime", False, CAPABILITIES, str(folder))
    with quick_conversions():
        yield convert_and_compare(task), folder


def test_the_cpu_engine_passes_for_real(converted: tuple[Attempt, Path]) -> None:
    result = converted[0].results[0]
    assert (result.engine, result.status, result.why) == ("onnxruntime", "passed", "")
    assert result.precision == "int8"
    assert result.qdq is not None
    assert result.fp32 is not None
    assert 0 < result.qdq.rms < result.fp32.rms
    assert result.top1 is not None
    assert result.top1 >= 99


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT for RTX is not installed (x86-64 only)")
def test_a_plan_that_no_gpu_runs_is_built(converted: tuple[Attempt, Path]) -> None:
    result = converted[0].results[1]
    assert (result.engine, result.status, result.qdq) == ("tensorrt-rtx", "built", None)
    assert result.megabytes is not None
    assert result.megabytes > 0.1


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT for RTX is not installed (x86-64 only)")
def test_a_plan_that_should_run_and_does_not_is_an_error(converted: tuple[Attempt, Path]) -> None:
    folder = converted[1]
    task = Task("tensorrt-rtx", True, CAPABILITIES, str(folder))
    with pytest.raises(EngineError):
        list(selftest._results(task, folder, selftest_model(), digits_folder() / "test.npz"))


def test_the_conversion_is_described(converted: tuple[Attempt, Path]) -> None:
    conversion = converted[0].conversion
    assert {stage["name"] for stage in conversion["stages"]} >= {"synthesis", "calibration", "engine"}
    assert conversion["versions"]["onnxruntime"]


def selftest_model() -> ModelOptions:
    digits = digits_folder()
    return ModelOptions(
        model=str(digits / "digits.pth"),
        arch=f"{digits / 'model.py'}:digits_resnet",
        input_shape=(1, 8, 8),
        mean=(0.305,),
        std=(0.376,),
    )


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_one_wrong_scale_is_noticed(converted: tuple[Attempt, Path], tmp_path: Path, factor: float) -> None:
    int8 = converted[1] / "model.int8.onnx"
    model = onnx.load(int8)
    # The first convolution's weights: 10 % too large, as where an engine reads a scale wrongly.
    (first, *_) = (node for node in model.graph.node if node.op_type == "Conv")
    (scale,) = (node.input[1] for node in model.graph.node if first.input[1] in node.output)
    (tensor,) = (entry for entry in model.graph.initializer if entry.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), scale))
    onnx.save(model, tmp_path / "wrong.onnx")
    onnxruntime.build(tmp_path / "wrong.onnx", tmp_path / "engine.onnx")
    references = references_from_model(selftest_model(), digits_folder() / "test.npz", int8)
    with OnnxRuntimeEngine(tmp_path / "engine.onnx") as engine:
        found = compare_with_references(engine, references)
    assert bool(found.missed) is (factor != 1.0)
    assert all(text.startswith("against Q/DQ: ") for text in found.missed[:1])


def test_an_engine_in_another_precision_fails(converted: tuple[Attempt, Path]) -> None:
    folder = converted[1]
    references = references_from_model(
        selftest_model(), digits_folder() / "test.npz", folder / "model.int8.onnx"
    )
    with OnnxRuntimeEngine(folder / "model.fp32.onnx") as engine:
        assert "it runs in fp32, not in int8" in compare_with_references(engine, references).missed
        for name, precision in (("tensorrt-rtx", "fp16"), ("tensorrt", "unknown")):
            engine.name, engine.precision = name, precision
            assert not any("runs in" in text for text in compare_with_references(engine, references).missed)


def test_differences_by_hand() -> None:
    reference = np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32)  # standard deviation 1
    logits = np.array([[1.0, -1.0], [-1.0, -1.4]], np.float32)
    found = difference((logits,), (reference,), Classes(2))
    assert found.rms == pytest.approx(1.2)  # sqrt(2.4 ** 2 / 4)
    assert found.largest == pytest.approx(2.4)
    assert found.agreement == 50.0


def test_limits_are_inclusive_and_nan_misses_them() -> None:
    limits = Limits(rms=0.02, largest=0.2, agreement=99.0)
    assert Difference(0.02, 0.2, 99.0).missed(limits) == []
    assert len(Difference(0.021, 0.21, 98.9).missed(limits)) == 3
    assert len(Difference(float("nan"), float("nan"), float("nan")).missed(limits)) == 3
    assert QDQ_LIMITS.rms < selftest.FP32_LIMITS.rms


def passing(task: Task) -> Attempt:
    """A conversion that works: ONNX Runtime's engine and the task's own."""
    Path(task.output).mkdir()
    (Path(task.output) / "generator.pt").touch()
    names = dict.fromkeys(["onnxruntime", task.engine])
    status = {"onnxruntime": "passed", task.engine: "passed" if task.runs else "built"}
    return Attempt(tuple(selftest.Result(name, status[name]) for name in names), {"engine": task.engine})


def test_every_engine_is_converted_once_and_the_generator_reused() -> None:
    tasks: list[Task] = []

    def attempt(task: Task) -> Attempt:
        tasks.append(task)
        return passing(task)

    results = selftest_engines(checkup_from_findings(on_gpu(RTX_6000)), print, attempt)
    assert [task.engine for task in tasks] == ["tensorrt", "tensorrt-rtx"]
    assert [task.runs for task in tasks] == [True, True]
    assert tasks[0].generator is None
    assert tasks[1].generator == str(Path(tasks[0].output) / "generator.pt")
    assert tasks[1].capabilities == ("8.9",)
    assert [result.engine for result in results.engines] == ["onnxruntime", "tensorrt", "tensorrt-rtx"]
    assert results.passed


def test_plans_for_other_gpus_are_built_for_the_usual_ones() -> None:
    tasks: list[Task] = []

    def attempt(task: Task) -> Attempt:
        tasks.append(task)
        return passing(task)

    results = selftest_engines(checkup_from_findings(on_gpu(H100)), print, attempt)
    assert [(task.engine, task.runs, task.capabilities) for task in tasks] == [
        ("tensorrt", True, CAPABILITIES),
        ("tensorrt-rtx", False, CAPABILITIES),
    ]
    assert [result.status for result in results.engines] == ["passed", "passed", "built"]


def failing_rtx(task: Task) -> Attempt:
    if task.engine == "tensorrt-rtx":
        why = f"BuildError: node 'conv' has no kernel; the log is in {Path.home()}/x.log"
        return Attempt((selftest.Result(task.engine, "failed", why=why, traceback=f"Traceback\n  {why}"),))
    return passing(task)


def test_an_engine_that_fails_leaves_the_others_theirs() -> None:
    results = selftest_engines(checkup_from_findings(WITH_RTX), print, failing_rtx)
    assert [(result.engine, result.status) for result in results.engines] == [
        ("onnxruntime", "passed"),
        ("tensorrt-rtx", "failed"),
    ]
    assert not results.passed


def test_a_failing_engine_is_exit_code_1_and_its_reason_is_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selftest, "attempt_in_child", failing_rtx)
    path = tmp_path / "report.json"
    result = diagnosed(monkeypatch, WITH_RTX, "-o", str(path))
    assert result.exit_code == 1
    assert "no kernel" in result.output
    assert "FAILED in" in result.output
    text = path.read_text()
    (engine,) = (e for e in json.loads(text)["selftest"]["engines"] if e["engine"] == "tensorrt-rtx")
    assert engine["why"].startswith("BuildError: node 'conv' has no kernel")
    assert engine["traceback"].startswith("Traceback")
    assert str(Path.home()) not in text


def test_the_report_of_a_real_run_names_no_folder_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, converted: tuple[Attempt, Path]
) -> None:
    monkeypatch.setattr(selftest, "attempt_in_child", lambda task: converted[0])
    path = tmp_path / "report.json"
    assert diagnosed(monkeypatch, WITH_RTX if HAS_RTX else BARE, "-o", str(path)).exit_code == 0
    text = path.read_text()
    document = json.loads(text)
    assert document["selftest"]["engines"][0]["qdq"]["rms"] < 0.02
    for private in (Path.home(), ROOT, sys.prefix):
        assert f"{private}/" not in text


@pytest.mark.slow
def test_a_conversion_that_raises_in_its_process_is_a_failure_with_a_traceback(tmp_path: Path) -> None:
    (result,) = attempt_in_child(Task("no such engine", True, CAPABILITIES, str(tmp_path / "out"))).results
    assert (result.engine, result.status) == ("no such engine", "failed")
    assert "expected an engine from" in result.why
    assert result.traceback.startswith("Traceback")


def test_a_process_that_dies_or_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def died(how: str, stderr: str) -> None:
        def call(function: str, argument: object, timeout_s: float) -> None:
            raise ChildError(how, stderr)

        monkeypatch.setattr(selftest, "call_in_child", call)

    task = Task("tensorrt", True, CAPABILITIES, "out")
    died("ended with signal SIGSEGV", "[TRT] [E] last words\n")
    (result,) = attempt_in_child(task).results
    assert result.why == "its process ended with signal SIGSEGV: [TRT] [E] last words"
    died("did not end within 900 s", "")
    (result,) = attempt_in_child(task).results
    assert (result.why, result.traceback) == ("its process did not end within 900 s", "")


def test_results_come_back_from_a_process_as_they_were(
    monkeypatch: pytest.MonkeyPatch, converted: tuple[Attempt, Path]
) -> None:
    monkeypatch.setattr(selftest, "convert_and_compare", lambda task: converted[0])

    def call(function: str, argument: object, timeout_s: float) -> object:
        assert isinstance(argument, dict)
        return json.loads(json.dumps(selftest.answer(json.loads(json.dumps(argument)))))

    monkeypatch.setattr(selftest, "call_in_child", call)
    done = attempt_in_child(Task("onnxruntime", True, CAPABILITIES, "out"))
    assert done.results == converted[0].results


def test_the_table_of_results() -> None:
    good = selftest.Result(
        "onnxruntime",
        "passed",
        "int8",
        0.17,
        Difference(0.0052, 0.04, 100.0),
        Difference(0.011, 0.08, 99.8),
        99.6,
    )
    built = selftest.Result("tensorrt-rtx", "built", megabytes=1.71, why="no GPU of this machine runs it")
    lines = results_text(Results((good, built), (), 21.6)).splitlines()
    assert lines[1] == "onnxruntime   passed  0.17   0.0052   0.0110      99.8 %  99.6 %"
    assert lines[2:4] == ["tensorrt-rtx  built   1.71", "  tensorrt-rtx: no GPU of this machine runs it"]
    assert lines[-1] == "PASSED in 21.6 s"
    assert max(map(len, lines)) <= 80


def test_nothing_that_runs_is_no_pass() -> None:
    assert not Results((selftest.Result("tensorrt-rtx", "built"),), (), 1.0).passed
    assert not Results((), (), 1.0).passed


def test_the_example_lies_in_the_package_or_in_the_repository(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert digits_folder() == ROOT / "examples" / "digits"
    monkeypatch.setattr(
        selftest, "__file__", str(tmp_path / "site-packages" / "converter" / "doctor" / "selftest.py")
    )
    with pytest.raises(LoadError, match="install zscgan-convert anew"):
        digits_folder()
    installed = tmp_path / "site-packages" / "converter" / "digits"
    installed.mkdir(parents=True)
    for name in EXAMPLE:
        (installed / name).touch()
    assert digits_folder() == installed


def test_the_wheel_is_told_to_bring_the_example() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in EXAMPLE:
        assert f'"examples/digits/{name}" = "converter/digits/{name}"' in text
        assert (ROOT / "examples" / "digits" / name).is_file()


@pytest.mark.gpu
def test_tensorrt_passes_on_this_gpu() -> None:
    results = selftest_engines(checkup_from_findings(doctor.ask_all()), print)
    found = {result.engine: result for result in results.engines}
    assert found["tensorrt"].status == "passed", found["tensorrt"].why
    assert results.passed
