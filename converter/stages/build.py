"""The engine of a conversion: built, and compared with the FP32 network."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrators.tensorrt.gpu_memory import release_gpu_memory
from calibrators.zscgan.sampling import TrainedGenerator
from converter.console import Advance, Reporter
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.report.document import Report
from converter.stages.calibration import calibration_data
from converter.stages.synthesis import JUDGING, samples
from converter.trust.fp32 import fp32_by, fp32_network
from converter.trust.prediction import border_inputs, inputs_for, predicted
from converter.trust.predictions import Logits, Predictions, in_parts, predictions
from converter.workspace import (
    BUILD_LOG,
    CPU_ENGINE,
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
from engines.tensorrt import library as tensorrt
from engines.tensorrt import rtx as tensorrt_rtx
from engines.tensorrt.engine import PlanEngine
from engines.tensorrt.inspector import layers_from_json


@dataclass(frozen=True)
class Deployed:
    """What was built: ``name`` of the engine that verifies and is measured here, and what opens it.

    On a GPU it is opened on a device of its own, or on the one that is given.
    """

    name: str
    open_on: Callable[[Device | None], Engine]

    def open(self) -> Engine:
        """The engine, loaded."""
        return self.open_on(None)


def build(
    inputs: Inputs,
    options: ConvertOptions,
    generator: TrainedGenerator | None,
    workspace: Workspace,
    reporter: Reporter,
    report: Report,
) -> Deployed:
    """The engine that was chosen, and the ONNX Runtime engine always: it runs on any machine."""
    with reporter.stage("engine") as stage:
        onnxruntime.build(workspace.path(INT8_ONNX), workspace.path(CPU_ENGINE))
        integer, convolutions = onnxruntime.int8_kernels(workspace.path(CPU_ENGINE))
        stage.detail = (
            f"ONNX Runtime, {integer} of {convolutions} convolutions on INT8 kernels -> {CPU_ENGINE}"
        )
    report.quantization |= {"convolutions": convolutions, "int8_convolutions": integer}
    on_cpu = Deployed("onnxruntime", lambda _: OnnxRuntimeEngine(workspace.path(CPU_ENGINE)))
    if inputs.engine == "onnxruntime":
        return on_cpu
    release_gpu_memory()
    try:
        if inputs.engine == "tensorrt":
            build_tensorrt(inputs, options, generator, workspace, reporter)
        else:
            build_rtx(options, workspace, reporter)
    except EngineError as error:
        raise with_kept_log(error, workspace) from error
    deployed = open_plan(inputs, options, workspace, reporter)
    if deployed is None:
        return on_cpu
    describe_layers(deployed, options, reporter, report)
    return deployed


def build_tensorrt(
    inputs: Inputs,
    options: ConvertOptions,
    generator: TrainedGenerator | None,
    workspace: Workspace,
    reporter: Reporter,
) -> None:
    """TensorRT's plan in the workspace: from the Q/DQ pairs, or by TensorRT's own calibration."""
    with reporter.stage("engine") as stage, reporter.progress("engine", 100) as advance, ExitStack() as stack:
        calibrator = None
        if options.implicit:
            memory = stack.enter_context(open_device(options.buffers))
            calibrator = stack.enter_context(new_calibrator(inputs, options, generator, memory, workspace))
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


def new_calibrator(
    inputs: Inputs,
    options: ConvertOptions,
    generator: TrainedGenerator | None,
    memory: Device,
    workspace: Workspace,
) -> Any:
    """TensorRT 10's calibrator on the samples or the real images; a context manager."""
    from calibrators.tensorrt.calibrator import (  # imports TensorRT
        ZSCGANEntropyCalibrator,
        ZSCGANMinMaxCalibrator,
    )

    kinds = {"entropy": ZSCGANEntropyCalibrator, "max": ZSCGANMinMaxCalibrator}
    return kinds[options.calibration.algorithm](
        None,
        inputs.teacher.spec,
        batches=calibration_data(inputs, options, generator),
        samples=options.calibration.samples,
        batch_size=inputs.batch,
        cache=workspace.path(IMPLICIT_CACHE),
        fingerprint=inputs.ranges_for,
        memory=memory,
    )


def build_rtx(options: ConvertOptions, workspace: Workspace, reporter: Reporter) -> None:
    """The plan of TensorRT for RTX in the workspace, for the GPUs that were named."""
    with reporter.stage("engine") as stage, reporter.progress("engine", 100) as advance:
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


def open_plan(
    inputs: Inputs, options: ConvertOptions, workspace: Workspace, reporter: Reporter
) -> Deployed | None:
    """What opens the plan; None, with a warning, for one of TensorRT for RTX that this machine can't run."""
    name = TENSORRT_ENGINE if inputs.engine == "tensorrt" else RTX_ENGINE
    deployed = Deployed(inputs.engine, lambda device: new_plan_engine(workspace.path(name), options, device))
    if inputs.engine == "tensorrt":
        return deployed
    number, trouble = gpus()
    if number > 0:
        try:
            deployed.open().close()
        except EngineError as error:
            trouble = str(error)
    if trouble:
        half = ", with FP32 in place of FP16" if options.build.fp16 else ""
        reporter.warn(
            f"the plan does not run on this machine ({trouble}): agreement, accuracy and throughput below are those of "
            f"the same INT8 network in ONNX Runtime on this CPU{half}"
        )
        return None
    return deployed


def new_plan_engine(path: Path, options: ConvertOptions, device: Device | None = None) -> PlanEngine:
    """The plan, loaded. A version-compatible one runs code that it brings; we built it ourselves."""
    return PlanEngine(path, options.buffers, host_code=options.build.version_compatible, device=device)


def describe_layers(deployed: Deployed, options: ConvertOptions, reporter: Reporter, report: Report) -> None:
    """Which layers of the plan run in INT8, and what the reformats cost, into the report."""
    with reporter.stage("inspect") as stage, deployed.open() as engine:
        assert isinstance(engine, PlanEngine)
        layers = layers_from_json(engine.inspector_json()).with_times(
            engine.layer_times(options.build.opt_batch)
        )
        stage.detail = layers.summary()
        report.engine = {"name": engine.name, "precision": layers.precision, **layers.to_json()}
    for warning in layers.warnings():
        reporter.warn(warning)


def verify(
    inputs: Inputs,
    options: ConvertOptions,
    deployed: Deployed,
    baseline: Predictions | None,
    generator: TrainedGenerator | None,
    workspace: Workspace,
    reporter: Reporter,
    report: Report,
) -> None:
    """Agreement of FP32 and INT8 on fresh samples, what is predicted from others, and accuracy on ``--val``."""
    if generator is None and inputs.val is None:
        reporter.warn("neither samples nor --val: how often INT8 agrees with FP32 was not measured")
        return
    with (
        reporter.stage("verify") as stage,
        fp32_network(inputs.teacher.module, inputs.device, workspace.path(FP32_ONNX)) as fp32,
        deployed.open() as int8,
    ):
        found = []
        run: Logits = int8.run
        if deployed.name != "onnxruntime":
            run = in_parts(run, options.build.min_batch, options.build.max_batch)
        if generator is not None:
            fresh = samples(generator, inputs, options, JUDGING)
            agreement = predictions(fp32, fresh).agreement(predictions(run, fresh))
            report.agreement = {"synthetic_top1": agreement, "samples": fresh.num_samples}
            found.append(f"{agreement:.2f} % agreement on {fresh.num_samples} fresh samples")
            unseen = border_inputs(
                generator, inputs_for(inputs.batch), inputs.batch, options.synthesis.seed + JUDGING
            )
            prediction = predicted(fp32, run, unseen)
            report.prediction = prediction.to_json()
            found.append(str(prediction))
        if inputs.val is not None:
            assert baseline is not None
            with reporter.progress("verify", inputs.val.num_samples) as advance:
                quantized = predictions(run, inputs.val, advance)
            report.accuracy = {
                "images": inputs.val.num_samples,
                "fp32_top1": baseline.top1,
                "fp32_by": fp32_by(inputs.device),
                "int8_top1": quantized.top1,
                "agreement": baseline.agreement(quantized),
            }
            found.append(f"{report.accuracy['agreement']:.2f} % on {inputs.val.num_samples} images of --val")
        stage.detail = ", ".join(found)
