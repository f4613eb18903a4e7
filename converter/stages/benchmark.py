"""The throughput of the engine that was built, beside that of the FP32 network."""

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from calibrators.tensorrt.gpu_memory import release_gpu_memory
from converter.console import Reporter
from converter.options import ConvertOptions
from converter.report.document import Report
from converter.stages.build import Deployed, new_plan_engine
from converter.workspace import FP32_ONNX, Workspace
from engines.base import Engine
from engines.bench.compare import Throughput, compare, ratios
from engines.bench.gpu_notes import gpu_entry
from engines.bench.gpu_watch import GpuWatch
from engines.memory import open_device
from engines.memory.base import Device
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.options import BenchOptions, BuildOptions
from engines.tensorrt import library as tensorrt
from engines.tensorrt import rtx as tensorrt_rtx

BENCH_BATCHES = (1, 8)


def measure(
    options: ConvertOptions, deployed: Deployed, workspace: Workspace, reporter: Reporter, report: Report
) -> None:
    """Throughput of FP32, on a GPU also of FP16, and of INT8, by trtexec's rules in one alternating run."""
    batches = measured_batches(deployed, options.build)
    bench = BenchOptions(batches=batches, buffers=options.buffers)
    with reporter.stage("benchmark") as stage:
        if deployed.name == "onnxruntime":
            results = on_cpu(bench, deployed, workspace)
        else:
            results = on_gpu(options, bench, deployed, workspace, reporter, report)
        report.throughput = [result.to_json() for result in results]
        engines = len(results) // len(batches)  # FP32 is the first of them, INT8 the last
        gains = ratios(results, engines)[engines - 1 :: engines]
        pairs = zip(batches, gains, strict=True)
        stage.detail = "INT8 " + ", ".join(f"{ratio:.2f} x FP32 at batch {batch}" for batch, ratio in pairs)
    for warning in dict.fromkeys(warning for result in results for warning in result.warnings or ()):
        reporter.warn(warning)
    if deployed.name == "onnxruntime" and max(gains) < 1:
        reporter.warn(
            "INT8 is slower than FP32 in ONNX Runtime on this CPU, as it is for narrow and depthwise networks; "
            "for a CPU like this take model.fp32.onnx"
        )


def on_cpu(bench: BenchOptions, deployed: Deployed, workspace: Workspace) -> list[Throughput]:
    """FP32 and INT8 in ONNX Runtime."""
    with OnnxRuntimeEngine(workspace.path(FP32_ONNX)) as fp32, deployed.open() as int8:
        return compare([fp32, int8], bench)


def on_gpu(
    options: ConvertOptions,
    bench: BenchOptions,
    deployed: Deployed,
    workspace: Workspace,
    reporter: Reporter,
    report: Report,
) -> list[Throughput]:
    """FP32, FP16 and INT8 plans on one GPU, whose clocks are noted meanwhile."""
    with ExitStack() as stack:
        device = stack.enter_context(open_device(bench.buffers))
        engines = open_baselines(options, deployed, workspace, device, stack)
        engines.append(stack.enter_context(deployed.open_on(device)))
        with GpuWatch(device.pci_bus_id) as watch:
            results = compare(engines, bench, measuring=watch.running)
    entry = report.device["measured_on"] = gpu_entry(device, bench, watch)
    for warning in entry["warnings"]:
        reporter.warn(warning)
    return results


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


def measured_batches(deployed: Deployed, built: BuildOptions) -> tuple[int, ...]:
    """The usual batches, as far as the plan's profile has them."""
    if deployed.name == "onnxruntime":
        return BENCH_BATCHES
    fitting = tuple(batch for batch in BENCH_BATCHES if built.min_batch <= batch <= built.max_batch)
    return fitting or (built.opt_batch,)
