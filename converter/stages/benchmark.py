"""The throughput of the engine that was built, beside that of the FP32 network."""

import tempfile
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibrators.tensorrt.gpu_memory import release_gpu_memory
from converter.job import Job
from converter.options import ConvertOptions
from converter.report.document import ThroughputSection
from converter.stages.build import Deployed, new_plan_engine
from converter.stages.head import head_file
from converter.workspace import FP32_ONNX, Workspace
from engines.base import Engine
from engines.bench.compare import Throughput, compare, ratios
from engines.bench.gpu_notes import gpu_entry
from engines.bench.gpu_watch import GpuWatch
from engines.memory import open_device
from engines.memory.base import Device
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.options import ENGINE_TITLES, BenchOptions
from engines.tensorrt import library as tensorrt
from engines.tensorrt import rtx as tensorrt_rtx
from zscgan_common.warning_message import WarningMessage

BENCH_BATCHES = (1, 8)
SLOWER = WarningMessage(
    "int8-slower-on-cpu",
    "INT8 is slower than FP32 in ONNX Runtime on this CPU, as it is for narrow and depthwise networks, and "
    "--cpu-int8 all keeps every layer in it",
    "Nothing is wrong with the INT8 model: it gains on a GPU, or on a CPU with integer dot products (VNNI). Leave "
    "--cpu-int8 out, which keeps what is slower in float, or deploy model.fp32.onnx on a CPU like this one.",
)


@dataclass(frozen=True)
class Benchmarked:
    """The throughput, and what is known of the GPU that gave it."""

    throughput: list[ThroughputSection]
    measured_on: dict[str, Any] | None = None


def benchmark(job: Job, deployed: Deployed) -> Benchmarked:
    """Throughput of FP32, on a GPU also of FP16, and of INT8, by trtexec's rules in one alternating run."""
    options, measured_on = job.options, None
    batches = measured_batches(job, deployed)
    bench = BenchOptions(batches=batches, buffers=options.buffers)
    with job.console.stage("benchmark", moving=False) as stage:
        if deployed.name == "onnxruntime":
            results = on_cpu(job, bench, deployed)
        else:
            results, measured_on = on_gpu(job, bench, deployed)
        engines = len(results) // len(batches)  # FP32 is the first of them, INT8 the last
        gains = ratios(results, engines)[engines - 1 :: engines]
        pairs = zip(batches, gains, strict=True)
        found = ", ".join(f"{ratio:.2f} x FP32 at batch {batch}" for batch, ratio in pairs)
        stage.detail = f"{ENGINE_TITLES[deployed.name]}{'' if deployed.in_float else ', INT8'}: {found}"
    for warning in dict.fromkeys(warning for result in results for warning in result.warnings or ()):
        job.console.warn(warning)
    # What was not asked for by name is no verdict on INT8.
    if options.engine == "onnxruntime" and options.cpu_int8 == "all" and max(gains) < 1:
        job.console.warn(SLOWER)
    return Benchmarked(list(map(section_of, results)), measured_on)


def section_of(result: Throughput) -> ThroughputSection:
    """An entry of the report's ``throughput``."""
    parts = result.parts_ms
    return ThroughputSection(
        engine=result.engine,
        precision=result.precision,
        batch=result.batch,
        images_per_s=result.images_per_s,
        latency_ms=dict(result.latency_ms),
        iterations=result.iterations,
        parts_ms=None if parts is None else {name: dict(figures) for name, figures in parts.items()},
        warnings=None if result.warnings is None else list(map(str, result.warnings)),
    )


def on_cpu(job: Job, bench: BenchOptions, deployed: Deployed) -> list[Throughput]:
    """FP32 and INT8 in ONNX Runtime, both with the network's tail or both without it.

    The engine counts as INT8 also where all of its layers are faster in float. It is then the FP32 network itself, and
    measured once: two measurements of one network would differ by chance.
    """
    whole = nullcontext(job.workspace.path(FP32_ONNX))
    with (
        head_file(job, FP32_ONNX) if deployed.ends_before_tail else whole as path,
        OnnxRuntimeEngine(path) as fp32,
        deployed.open() as int8,
    ):
        engines = [fp32] if deployed.is_fp32 else [fp32, int8]
        results = compare(engines, bench)
    if deployed.is_fp32:
        results = [found for found in results for _ in ("fp32", "int8")]
    precisions = ("fp32", "int8") * len(bench.batches)
    return [replace(found, precision=name) for found, name in zip(results, precisions, strict=True)]


def on_gpu(job: Job, bench: BenchOptions, deployed: Deployed) -> tuple[list[Throughput], dict[str, Any]]:
    """FP32, FP16 and INT8 plans on one GPU, whose clocks are noted meanwhile; and what is known of the GPU."""
    with ExitStack() as stack:
        device = stack.enter_context(open_device(bench.buffers))
        engines = open_baselines(job.options, deployed, job.workspace, device, stack)
        engines.append(stack.enter_context(deployed.open_on(device)))
        with GpuWatch(device.pci_bus_id) as watch:
            results = compare(engines, bench, measuring=watch.running)
    for warning in watch.activity.warnings() if watch.activity is not None else ():
        job.console.warn(warning)
    return results, gpu_entry(device, bench, watch)


def open_baselines(
    options: ConvertOptions, deployed: Deployed, workspace: Workspace, device: Device, stack: ExitStack
) -> list[Engine]:
    """The FP32 and the FP16 network as plans of the same library, open until ``stack`` closes."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    from_onnx = tensorrt.engine_from_onnx if deployed.name == "tensorrt" else tensorrt_rtx.engine_from_onnx
    engines: list[Engine] = []
    release_gpu_memory()
    for name, fp16 in (("fp32", False), ("fp16", True)):
        plan = from_onnx(
            workspace.path(FP32_ONNX), folder / f"{name}.plan", replace(options.build, fp16=fp16)
        )
        engines.append(stack.enter_context(new_plan_engine(plan, options, device)))
    return engines


def measured_batches(job: Job, deployed: Deployed) -> tuple[int, ...]:
    """The usual batches, as far as the engine takes them."""
    built = job.options.build
    if deployed.name == "onnxruntime":
        return (1,) if job.teacher.one_by_one else BENCH_BATCHES
    fitting = tuple(batch for batch in BENCH_BATCHES if built.min_batch <= batch <= built.max_batch)
    return fitting or (built.opt_batch,)
