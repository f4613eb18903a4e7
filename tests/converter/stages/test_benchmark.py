"""What the throughput is said to mean."""

import pytest

from converter.console import Console
from converter.job import Job
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.stages import benchmark as measure
from converter.stages.benchmark import SLOWER, benchmark, on_cpu
from converter.stages.build import Deployed
from engines.errors import EngineError
from engines.measurement import Throughput
from engines.options import BenchOptions
from tests.converter.jobs import job_of
from tests.engines.bench.test_compare import Clock, FakeEngine


def never_opened(_device: object) -> None:
    raise EngineError("nothing is run here")


@pytest.mark.parametrize(
    ("asked", "cpu_int8", "int8", "warned"),
    [
        ("onnxruntime", "all", (50.0, 90.0), True),
        ("onnxruntime", "all", (50.0, 110.0), False),  # it gains at one of the batches
        ("onnxruntime", "fastest", (50.0, 90.0), False),
        ("auto", "all", (50.0, 90.0), False),
        ("tensorrt-rtx", "all", (50.0, 90.0), False),
    ],
)
def test_slower_is_a_verdict_only_where_the_cpu_was_asked_for(
    asked: str, cpu_int8: str, int8: tuple[float, float], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(job: Job, bench: BenchOptions, deployed: Deployed) -> list[Throughput]:
        speeds = zip(bench.batches, int8, strict=True)
        return [
            Throughput("onnxruntime", precision, batch, speed, {"median": 1.0}, 10)
            for batch, quantized in speeds
            for precision, speed in (("fp32", 100.0), ("int8", quantized))
        ]

    monkeypatch.setattr(measure, "on_cpu", measured)
    console = Console(quiet=True)
    options = ConvertOptions(ModelOptions("mine.pth"), engine=asked, cpu_int8=cpu_int8)
    job = job_of(options=options, console=console)
    found = benchmark(job, Deployed("onnxruntime", never_opened))  # type: ignore[arg-type]
    assert (SLOWER in console.warnings) is warned
    assert len(found.throughput) == 4
    (stage,) = console.stages
    assert stage.detail.startswith("ONNX Runtime, INT8: 0.50 x FP32 at batch 1, ")


@pytest.mark.parametrize(("is_fp32", "measured"), [(True, ["fp32"]), (False, ["fp32", "int8"])])
def test_an_engine_that_is_the_fp32_network_is_measured_once(
    is_fp32: bool, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(engines: list[FakeEngine], bench: BenchOptions) -> list[Throughput]:
        assert [engine.name for engine in engines] == measured
        return [
            Throughput("onnxruntime", engine.name, batch, 100.0, {"median": 1.0}, 10)
            for batch in bench.batches
            for engine in engines
        ]

    monkeypatch.setattr(measure, "compare", compared)
    monkeypatch.setattr(measure, "OnnxRuntimeEngine", lambda _path: FakeEngine("fp32", Clock()))
    deployed = Deployed("onnxruntime", lambda _device: FakeEngine("int8", Clock()), is_fp32=is_fp32)
    found = on_cpu(job_of(), BenchOptions(batches=(1, 8)), deployed)
    assert [(entry.precision, entry.batch) for entry in found] == [
        ("fp32", 1), ("int8", 1), ("fp32", 8), ("int8", 8),
    ]  # fmt: skip
