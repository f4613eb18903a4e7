"""What the throughput is said to mean."""

import pytest

from converter.console import Console
from converter.job import Job
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.stages import benchmark as measure
from converter.stages.benchmark import SLOWER, benchmark
from converter.stages.build import Deployed
from engines.errors import EngineError
from engines.measurement import Throughput
from engines.options import BenchOptions
from tests.converter.jobs import job_of


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
