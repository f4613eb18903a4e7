"""``zscgan-doctor --selftest``: the digits example converted with each engine of this machine, and compared.

Each conversion runs in a process of its own, so that a native library that crashes is a result as well. Its
engines then answer the example's test images, see ``converter.doctor.reference``.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from converter.doctor.diagnosis import Checkup
from converter.doctor.isolated_call import ChildError, call_in_child
from converter.errors import LoadError
from converter.load.options import ModelOptions
from converter.trust.limits import FP32_LIMITS, QDQ_LIMITS, Difference
from converter.workspace import ENGINE_FILES, INT8_ONNX
from engines.base import Engine
from engines.options import COMPUTE_CAPABILITIES, BuildOptions
from zscgan_common.tables import columns, figures, indented, text_from, words

STEPS, CALIBRATION_SAMPLES, SEED = 60, 256, 0
"""The samples of so short a training calibrate the digits well: 98.8 % of them have their label."""

TIMEOUT_S = 900.0

EXAMPLE = ("model.py", "digits.pth", "test.npz")
PASSED, FAILED, BUILT = "passed", "failed", "built"

_TRACEBACK_LINES = 60


@dataclass(frozen=True)
class Result:
    """One engine: ``passed``, ``failed`` (``why``, and the ``traceback`` where there is one), or ``built`` where
    this machine can't run it. ``qdq`` and ``fp32`` compare with the two references; ``top1`` is in percent."""

    engine: str
    status: str
    precision: str | None = None
    megabytes: float | None = None
    qdq: Difference | None = None
    fp32: Difference | None = None
    top1: float | None = None
    why: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Attempt:
    """One conversion and the engines that came of it; ``conversion`` is what its report says, without paths."""

    results: tuple[Result, ...]
    conversion: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All engines that could be built, and how long it took."""

    engines: tuple[Result, ...]
    conversions: tuple[dict[str, Any], ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether one engine passed and none failed."""
        found = {result.status for result in self.engines}
        return PASSED in found and FAILED not in found

    def to_json(self) -> dict[str, Any]:
        """The self-test's part of the report."""
        return {
            "passed": self.passed,
            "seconds": round(self.seconds, 1),
            "steps": STEPS,
            "calibration_samples": CALIBRATION_SAMPLES,
            "seed": SEED,
            "limits": {"qdq": asdict(QDQ_LIMITS), "fp32": asdict(FP32_LIMITS)},
            "engines": [asdict(result) for result in self.engines],
            "conversions": list(self.conversions),
        }


@dataclass(frozen=True)
class Task:
    """One conversion to do: the engine, whether its plan runs here, and where the files go and come from."""

    engine: str
    runs: bool
    capabilities: tuple[str, ...]
    output: str
    generator: str | None = None


def digits_folder() -> Path:
    """The folder of the digits example: inside of an installed package, or the repository's.

    Raises LoadError where neither has it.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "digits", package.parent / "examples" / "digits"):
        if all((folder / name).is_file() for name in EXAMPLE):
            return folder
    raise LoadError(
        f"expected the digits example ({', '.join(EXAMPLE)}) in the installed package; install zscgan-convert anew"
    )


def selftest_engines(
    checkup: Checkup, say: Callable[[str], None], attempt: Callable[[Task], Attempt] | None = None
) -> Results:
    """The example with every engine that ``checkup`` says can be built; ``say`` gets a line before each.

    ONNX Runtime's engine is made by every conversion, so it is asked for alone only where no other one did it.
    """
    started = time.perf_counter()
    attempt = attempt or attempt_in_child
    wanted = sorted(
        (engine for engine in checkup.engines if engine.builds), key=lambda e: e.name == "onnxruntime"
    )
    results: dict[str, Result] = {}
    conversions: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        generator: Path | None = None
        for engine in wanted:
            if engine.name in results:
                continue
            say(f"self-test: converting the digits example for {engine.name} (about half a minute) ...")
            output = Path(folder) / engine.name
            done = attempt(
                Task(
                    engine=engine.name,
                    runs=engine.runs,
                    capabilities=_capabilities(checkup),
                    output=str(output),
                    generator=None if generator is None else str(generator),
                )
            )
            for result in done.results:
                results.setdefault(result.engine, result)
            conversions += [done.conversion] if done.conversion else []
            if generator is None and (output / "generator.pt").is_file():
                generator = output / "generator.pt"
    ordered = tuple(results[engine.name] for engine in checkup.engines if engine.name in results)
    return Results(ordered, tuple(conversions), time.perf_counter() - started)


def _capabilities(checkup: Checkup) -> tuple[str, ...]:
    """The GPUs of this machine that TensorRT for RTX builds for, else its default."""
    here = [gpu["compute_capability"] for gpu in checkup.gpus]
    fitting = tuple(dict.fromkeys(value for value in here if value in COMPUTE_CAPABILITIES))
    return fitting or BuildOptions.compute_capabilities


def attempt_in_child(task: Task) -> Attempt:
    """One conversion in a process of its own; what ends that process is the failure of the task's engine."""
    try:
        document = call_in_child("converter.doctor.selftest:answer", asdict(task), TIMEOUT_S)
    except ChildError as error:
        raised = error.how == "ended with exit code 1" and error.last_line  # Python's own for an exception
        why = error.last_line if raised else f"its process {error.in_words}"
        lines = error.stderr.strip().splitlines()[-_TRACEBACK_LINES:]
        return Attempt((Result(task.engine, FAILED, why=why, traceback="\n".join(lines)),))
    return Attempt(tuple(map(_result_from_json, document["results"])), document["conversion"])


def _result_from_json(entry: dict[str, Any]) -> Result:
    compare_with_references = {
        key: Difference(**entry[key]) for key in ("qdq", "fp32") if entry[key] is not None
    }
    return Result(**{**entry, **compare_with_references})


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """``convert_and_compare`` for JSON."""
    return asdict(convert_and_compare(Task(**{**task, "capabilities": tuple(task["capabilities"])})))


def convert_and_compare(task: Task) -> Attempt:
    """The example converted for ``task.engine``, and every engine file that came of it compared.

    Raises what the conversion or the engine raises.
    """
    from calibrators.options import CalibrationOptions
    from calibrators.zscgan.options import ZSCGANOptions
    from converter.console import Console
    from converter.options import ConvertOptions
    from converter.pipeline import convert
    from converter.report.document import plain

    digits = digits_folder()
    model = ModelOptions(
        model=str(digits / "digits.pth"),
        arch=f"{digits / 'model.py'}:digits_resnet",
        input_shape=(1, 8, 8),
        mean=(0.305,),
        std=(0.376,),
    )
    options = ConvertOptions(
        model=model,
        synthesis=ZSCGANOptions(steps=STEPS, seed=SEED),
        calibration=CalibrationOptions(samples=CALIBRATION_SAMPLES),
        build=BuildOptions(compute_capabilities=task.capabilities)
        if task.engine == "tensorrt-rtx"
        else BuildOptions(),
        engine=task.engine,
        output=Path(task.output),
        generator=None if task.generator is None else Path(task.generator),
    )
    report = convert(options, Console(quiet=True), "zscgan-doctor --selftest")
    results = _results(task, Path(task.output), model, digits / "test.npz")
    return Attempt(
        tuple(results),
        {
            "engine": task.engine,
            "seconds": report.seconds,
            "stages": plain(report.stages),
            "versions": report.versions,
            "device": plain(report.device),
            "warnings": report.warnings,
            "layers": report.engine,
        },
    )


def _results(task: Task, output: Path, model: ModelOptions, images: Path) -> Iterator[Result]:
    """A result for each engine file in ``output``; ``model`` are the example's ModelOptions."""
    from converter.doctor.reference import compare_with_references, references_from_model

    references = references_from_model(model, images, output / INT8_ONNX)
    for name, file in ENGINE_FILES.items():
        path = output / file
        if not path.is_file():
            continue
        megabytes = round(path.stat().st_size / 1e6, 3)
        if name != "onnxruntime" and not task.runs:
            yield Result(name, BUILT, megabytes=megabytes, why="no GPU of this machine runs it")
            continue
        with _opened(name, path) as engine:
            found = compare_with_references(engine, references)
        yield Result(
            engine=name,
            status=FAILED if found.missed else PASSED,
            precision=found.precision,
            megabytes=megabytes,
            qdq=found.qdq,
            fp32=found.fp32,
            top1=found.top1,
            why="; ".join(found.missed),
        )


def _opened(name: str, path: Path) -> Engine:
    if name == "onnxruntime":
        from engines.onnxruntime.engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path)
    from engines.tensorrt.engine import PlanEngine

    return PlanEngine(path)


def results_text(results: Results) -> str:
    """The results for a terminal."""
    numbers = ("MB", "vs Q/DQ", "vs FP32", "same class", "top-1")
    body = columns(words("self-test"), words("result"), *map(figures, numbers))
    for result in results.engines:
        body.add_row(result.engine, result.status, *_cells(result))
    notes = (indented(f"{result.engine}: {result.why}", 2) for result in results.engines if result.why)
    legend = (
        f"vs Q/DQ, vs FP32: rms difference of the logits from the same network computed literally (at most "
        f"{QDQ_LIMITS.rms:g}) and from the classifier (at most {FP32_LIMITS.rms:g}), in their standard deviations; "
        f"{STEPS} training steps, the example's test images"
    )
    verdict = f"{'PASSED' if results.passed else 'FAILED'} in {results.seconds:.1f} s"
    return text_from(body, *notes, "", legend, "", verdict)


def _cells(result: Result) -> Iterator[str]:
    yield "-" if result.megabytes is None else f"{result.megabytes:.2f}"
    if result.qdq is not None and result.fp32 is not None and result.top1 is not None:
        yield from (f"{result.qdq.rms:.4f}", f"{result.fp32.rms:.4f}")
        yield from (f"{result.fp32.agreement:.1f} %", f"{result.top1:.1f} %")
