"""The stage that builds the engine."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrators.tensorrt.gpu_memory import release_gpu_memory
from converter.console import Advance
from converter.job import Job
from converter.options import ConvertOptions
from converter.report.document import CPUInt8Section
from converter.samples import SampleSource
from converter.stages.head import head_file
from converter.workspace import (
    BUILD_LOG,
    CPU_ENGINE,
    ENGINE_FILES,
    FP32_ONNX,
    IMPLICIT_CACHE,
    INT8_ONNX,
    RTX_ENGINE,
    TENSORRT_ENGINE,
    Workspace,
)
from engines.base import Engine
from engines.errors import EngineError
from engines.gpu import gpus
from engines.memory import open_device
from engines.memory.base import Device
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.onnxruntime.fastest import build_fastest
from engines.tensorrt import library as tensorrt
from engines.tensorrt import rtx as tensorrt_rtx
from engines.tensorrt.engine import PlanEngine
from engines.tensorrt.inspector import layers_from_json
from zscgan_common.warning_message import WarningMessage


@dataclass(frozen=True)
class Deployed:
    """What was built: ``name`` of the engine that verifies and is measured here, and what opens it.

    On a GPU it is opened on a device of its own, or on the one that is given. It may have been built without the
    network's tail, and with the layers ``in_float``; all of them where it ``is_fp32``.
    """

    name: str
    open_on: Callable[[Device | None], Engine]
    ends_before_tail: bool = False
    in_float: tuple[str, ...] = ()
    is_fp32: bool = False

    def open(self) -> Engine:
        """The engine, loaded."""
        return self.open_on(None)


@dataclass(frozen=True)
class Built:
    """What was built, the kernels of ONNX Runtime's engine, and the layers of a plan that runs here."""

    deployed: Deployed
    convolutions: int
    int8_convolutions: int
    cpu_int8: CPUInt8Section
    layers: dict[str, Any] | None = None


def build(job: Job, samples: SampleSource | None) -> Built:
    """The engine that was chosen, and the ONNX Runtime engine always: it runs on any machine."""
    workspace = job.workspace
    with job.console.stage("engine") as stage:
        tail = job.teacher.tail
        without = tail is not None and tail.foreign
        with ExitStack() as stack:
            int8, fp32 = (
                stack.enter_context(head_file(job, name)) if without else workspace.path(name)
                for name in (INT8_ONNX, FP32_ONNX)
            )
            cpu_int8 = build_cpu_engine(job, int8, fp32)
        integer, convolutions = onnxruntime.int8_kernels(workspace.path(CPU_ENGINE))
        stage.detail = f"ONNX Runtime, {integer} of {convolutions} convolutions on INT8 kernels"
        if cpu_int8.in_float:
            stage.detail += f", {cpu_int8.in_float}, which is faster here"
        stage.detail += f" -> {CPU_ENGINE}"
    if tail is not None and without:
        job.console.info(
            f"note: ONNX Runtime doesn't have {', '.join(tail.chosen_by)}: {CPU_ENGINE} ends before it, and an engine "
            "of TensorRT is built with it"
        )
    deployed = None if job.engine == "onnxruntime" else build_plan(job, samples)
    if deployed is None:
        on_cpu = Deployed(
            "onnxruntime",
            lambda _: OnnxRuntimeEngine(workspace.path(CPU_ENGINE)),
            without,
            tuple(cpu_int8.kept_float),
            cpu_int8.is_fp32,
        )
        return Built(on_cpu, convolutions, integer, cpu_int8)
    return Built(deployed, convolutions, integer, cpu_int8, describe_layers(job, deployed))


def build_cpu_engine(job: Job, source: Path, fp32: Path) -> CPUInt8Section:
    """The engine of ONNX Runtime in the workspace, with the layers in INT8 that ``--cpu-int8`` says.

    Without any it is ``fp32`` itself, whose weights are not rounded to INT8's.
    """
    path, mode = job.workspace.path(CPU_ENGINE), job.options.cpu_int8
    if mode == "all":
        onnxruntime.build(source, path)
        return CPUInt8Section(mode, None, [], {}, {}, 0.0)
    choice = build_fastest(source, path)
    speed, all_int8 = (
        {str(batch): round(value, 3) for batch, value in speeds.items()}
        for speeds in (choice.speed, choice.all_int8_speed)
    )
    found = CPUInt8Section(
        mode, choice.layers, list(choice.in_float), speed, all_int8, round(choice.seconds, 3)
    )
    if found.is_fp32:
        onnxruntime.build(fp32, path)
    return found


def build_plan(job: Job, samples: SampleSource | None) -> Deployed | None:
    """The plan of the chosen engine; None where this machine can't run it."""
    release_gpu_memory()
    try:
        if job.engine == "tensorrt":
            build_tensorrt(job, samples)
        else:
            build_rtx(job)
    except EngineError as error:
        raise with_kept_log(error, job.workspace) from error
    return open_plan(job)


def build_tensorrt(job: Job, samples: SampleSource | None) -> None:
    """TensorRT's plan in the workspace: from the Q/DQ pairs, or by TensorRT's own calibration."""
    options, workspace, console = job.options, job.workspace, job.console
    with console.stage("engine") as stage, console.progress("engine", 100) as advance, ExitStack() as stack:
        calibrator = None
        if options.implicit:
            memory = stack.enter_context(open_device(options.buffers))
            calibrator = stack.enter_context(new_calibrator(job, samples, memory))
        plan = tensorrt.engine_from_onnx(
            workspace.path(FP32_ONNX if options.implicit else INT8_ONNX),
            workspace.path(TENSORRT_ENGINE),
            options.build,
            calibrator=calibrator,
            log_path=workspace.path(BUILD_LOG),
            on_progress=percent_of_phase(advance),
        )
        how = "TensorRT's own calibration" if options.implicit else "Q/DQ"
        stage.detail = f"TensorRT, {how}, {plan.stat().st_size / 1e6:.1f} MB -> {TENSORRT_ENGINE}"


def new_calibrator(job: Job, samples: SampleSource | None, memory: Device) -> Any:
    """TensorRT 10's calibrator on the samples or the real images; a context manager."""
    from calibrators.tensorrt.calibrator import (  # imports TensorRT
        ZSCGANEntropyCalibrator,
        ZSCGANMinMaxCalibrator,
    )

    kinds = {"entropy": ZSCGANEntropyCalibrator, "max": ZSCGANMinMaxCalibrator}
    return kinds[job.options.calibration.algorithm](
        None,
        job.teacher.spec,
        batches=job.calibration_data(samples),
        samples=job.options.calibration.samples,
        batch_size=job.batch,
        cache=job.workspace.path(IMPLICIT_CACHE),
        fingerprint=job.ranges_for,
        memory=memory,
    )


def build_rtx(job: Job) -> None:
    """The plan of TensorRT for RTX in the workspace, for the GPUs that were named."""
    options, workspace = job.options, job.workspace
    with job.console.stage("engine") as stage, job.console.progress("engine", 100) as advance:
        plan = tensorrt_rtx.engine_from_onnx(
            workspace.path(INT8_ONNX),
            workspace.path(RTX_ENGINE),
            options.build,
            log_path=workspace.path(BUILD_LOG),
            on_progress=percent_of_phase(advance),
        )
        capabilities = ", ".join(options.build.compute_capabilities)
        stage.detail = (
            f"TensorRT for RTX, {plan.stat().st_size / 1e6:.1f} MB for {capabilities} -> {RTX_ENGINE}"
        )


def percent_of_phase(advance: Advance) -> Callable[[str, int, int], None]:
    """The builder's progress as a percentage of its phase, with the phase's name."""
    return lambda phase, step, steps: advance(100 * step // max(steps, 1), phase)


def with_kept_log(error: EngineError, workspace: Workspace) -> EngineError:
    """``error``, whose message names the build log: it is moved out of the workspace, which goes away."""
    log = workspace.path(BUILD_LOG)
    if not log.exists():
        return error
    kept = workspace.output.with_name(f"{workspace.output.name}.{BUILD_LOG}")
    shutil.copyfile(log, kept)
    return type(error)(f"{error}; the builder's log is in {kept}")


def open_plan(job: Job) -> Deployed | None:
    """What opens the plan; None, with a warning, for one of TensorRT for RTX that this machine can't run."""
    options, path, tail = job.options, job.workspace.path(ENGINE_FILES[job.engine]), job.teacher.tail
    if tail is not None and tail.sized_by_values:
        job.console.warn(
            WarningMessage(
                "outputs-sized-by-values",
                f"the size of the plan's outputs depends on the image ({', '.join(tail.chosen_by)}): agreement, "
                "accuracy and throughput below are those of the same INT8 network in ONNX Runtime on this CPU",
                "The speed says nothing of the GPU. Measure the plan in your own program, which gives TensorRT an "
                "allocator for such outputs.",
            )
        )
        return None
    deployed = Deployed(job.engine, lambda device: new_plan_engine(path, options, device))
    if job.engine == "tensorrt":
        return deployed
    number, trouble = gpus()
    if number > 0:
        try:
            deployed.open().close()
        except EngineError as error:
            trouble = str(error)
    if trouble:
        half = ", with FP32 in place of FP16" if options.build.fp16 else ""
        job.console.warn(
            WarningMessage(
                "plan-runs-elsewhere",
                f"the plan does not run on this machine ({trouble}): agreement, accuracy and throughput below are "
                f"those of the same INT8 network in ONNX Runtime on this CPU{half}",
                "The accuracy is that of the same network; the speed says nothing of the GPU. Copy the plan to a "
                "machine with a GPU it was built for, and measure it there with zscgan-bench.",
            )
        )
        return None
    return deployed


def new_plan_engine(path: Path, options: ConvertOptions, device: Device | None = None) -> PlanEngine:
    """The plan, loaded. A version-compatible one runs code that it brings; we built it ourselves."""
    return PlanEngine(path, options.buffers, host_code=options.build.version_compatible, device=device)


def describe_layers(job: Job, deployed: Deployed) -> dict[str, Any]:
    """The report's ``engine``: which layers of the plan run in INT8, and what the reformats cost."""
    with job.console.stage("inspect") as stage, deployed.open() as engine:
        assert isinstance(engine, PlanEngine)
        layers = layers_from_json(engine.inspector_json()).with_times(
            engine.layer_times(job.options.build.opt_batch)
        )
        stage.detail = layers.summary()
        section = {"name": engine.name, "precision": layers.precision, **layers.to_json()}
    for warning in layers.warnings():
        job.console.warn(warning)
    return section
