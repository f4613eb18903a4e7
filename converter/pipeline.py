"""The whole way from MODEL to engine and report, a function a stage."""

import sys
import time
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import torch
from jaxtyping import Float
from jinja2 import TemplateError
from numpy.typing import NDArray

from calibrators.data.batches import random_pixels
from calibrators.distributed import ALONE, Ranks
from calibrators.errors import CacheError
from calibrators.kernels import exact_kernels
from calibrators.ranges.cache_file import save_cache
from calibrators.ranges.ranges import Ranges, save_ranges
from calibrators.zscgan.quality import sample_quality
from calibrators.zscgan.sample_sheet import save_picture, shown_classes
from calibrators.zscgan.sampling import TrainedGenerator, save_generator
from calibrators.zscgan.training import require_even_shares
from converter.console import Reporter
from converter.environment.cache_version import cache_version
from converter.errors import CaptureError, OptionsError
from converter.graph.capture import SAME, FoldedGraph, graph_from_model, graph_from_onnx
from converter.graph.layer_sizes import float_macs_percent
from converter.job import Inputs, inputs_from_options
from converter.options import ConvertOptions
from converter.out_of_memory import BATCHED, memory_error_in, out_of_memory
from converter.quantize.placement import QuantizationPlan, plan_from_onnx
from converter.quantize.qdq import qdq_from_onnx
from converter.report.document import PAGE, REPORT, Report, new_report, save_report
from converter.report.html.page import save_page
from converter.report.quantizer_rows import edges_from_plan
from converter.stages.benchmark import measure
from converter.stages.build import build, verify
from converter.stages.calibration import calibrated, calibration_data, measured
from converter.stages.fine_tuning import fine_tune, tuned_together
from converter.stages.mixed_precision import mixed_precision, require_means
from converter.stages.sensitivity import sensitivity
from converter.stages.synthesis import generator_from_teacher, samples
from converter.torchrun.ranks import ranks_of_this_run
from converter.torchrun.watchdog import on_forced_exit
from converter.trust.fp32 import fp32_by, fp32_network
from converter.trust.predictions import Predictions, predictions
from converter.workspace import FP32_ONNX, INT8_ONNX, SAMPLES, Workspace
from engines.errors import BuildError, EngineError
from engines.onnxruntime.engine import OnnxRuntimeEngine
from zscgan_common.files import write_atomic

LARGEST_ONNX = 2**31 - 1
"""Bytes of a protobuf file."""
KEPT = "the training so far is in {}; the same command goes on from there"
CHECKED_BATCHES = 1, 2, 5
ANY_BATCH = "the network must take any batch size: write x.flatten(1), or sizes taken from x.shape[0]"
GOOD_LABELS = 80.0
"""Percent. Under this the classifier itself doesn't see in the samples what it was asked for."""
MUCH_FLOAT = 10.0
"""Percent of the multiply-adds."""
POOR_STATISTICS = 0.2
"""Nats of batch-norm KL. Trained generators are at 0.001 to 0.06, Gaussian noise at 0.5."""


def convert(options: ConvertOptions, reporter: Reporter, command: str) -> Report:
    """Run every stage; the outputs are in the output folder when this returns.

    Raises ConversionError, CalibrationError or EngineError for what the user can mend. Then no output folder
    is left; the training of the generator is kept beside it for the next try.

    Under torchrun the processes share the training and the calibration, and the first does the rest; the others
    end in here.
    """
    started = time.perf_counter()
    with exact_kernels(), ranks_of_this_run(options.device) as ranks:
        inputs: Inputs | None = None
        try:
            inputs = inputs_from_options(options, reporter)
            require_shares(inputs, options, ranks)
            require_means(inputs, options)
            if not ranks.first:
                help_the_first(inputs, options, reporter, ranks)
            report = new_report(options, inputs, command)
            report.device["ranks"] = ranks.world
            lead(inputs, options, reporter, report, ranks, started)
        except Exception as error:  # memory runs out anywhere, and each library says it in its own way
            if memory_error_in(error) is None or told_by_engine(error, reporter.failed):
                raise
            trained = options.generator is None and any(done.name == "synthesis" for done in reporter.stages)
            raise out_of_memory(
                error, reporter.failed, inputs, options, trained=trained, ranks=ranks
            ) from error
    return report


def told_by_engine(error: Exception, stage: str | None) -> bool:
    """Whether an engine has said what to do about its own memory, which hangs on nothing of the training."""
    return isinstance(error, EngineError) and stage not in BATCHED


def require_shares(inputs: Inputs, options: ConvertOptions, ranks: Ranks) -> None:
    """Raise OptionsError where the ranks can't share the batches of the training that ``options`` call for."""
    if options.qat is not None or (options.generator is None and needs_generator(inputs, options)):
        try:
            require_even_shares(inputs.batch, ranks)
        except ValueError as error:
            raise OptionsError(str(error)) from error


def help_the_first(inputs: Inputs, options: ConvertOptions, reporter: Reporter, ranks: Ranks) -> NoReturn:
    """Take this process's part in the training and in the calibration, then end it."""
    with reporter.stage("capture"):
        graph = graph_of(inputs)
    with reporter.stage("synthesis"):
        generator = generator_for(inputs, options, None, reporter, ranks)
    if inputs.cached is None:
        with reporter.stage("calibration"):
            data = calibration_data(inputs, options, generator)
            measured(inputs, options, graph, data, lambda _: None, ranks)
    if options.qat is not None:
        with reporter.stage("qat"):
            plan = plan_from_onnx(graph.onnx)
            tuned_together(inputs, options, graph, plan, {}, generator, None, reporter, ranks)
    ranks.leave()
    sys.exit(0)


def lead(
    inputs: Inputs,
    options: ConvertOptions,
    reporter: Reporter,
    report: Report,
    ranks: Ranks,
    started: float,
) -> None:
    """Run every stage on the first rank; ``started`` is when the conversion did, by ``time.perf_counter``."""
    output = options.output or Path(f"{inputs.teacher.name}_int8")
    workspace = Workspace(output, lambda kept: reporter.warn(KEPT.format(kept)))
    with workspace, on_forced_exit(workspace.abandon):
        fp32 = capture(inputs, workspace, reporter, report)
        plan = plan_from_onnx(fp32.onnx)
        warn_of_float(fp32, plan, reporter)
        require_ranges(inputs, plan)
        baseline = fp32_baseline(inputs, workspace, reporter)
        generator = synthesise(inputs, options, workspace, reporter, report, ranks)
        ranges = calibrated(inputs, options, fp32, plan, generator, reporter, report, ranks)
        save_calibration(ranges, options, workspace, reporter, report)
        graph, ranges = fine_tune(
            inputs, options, fp32, plan, ranges, generator, workspace.qat_checkpoint, reporter, report, ranks
        )
        ranks.leave()
        costs = sensitivity(inputs, options, graph, plan, ranges, generator, reporter, report)
        plan = mixed_precision(
            inputs, options, fp32, graph, plan, ranges, costs, baseline, generator, reporter, report
        )
        quantize(graph, plan, ranges, workspace, reporter, report)
        deployed = build(inputs, options, generator, workspace, reporter, report)
        verify(inputs, options, deployed, baseline, generator, workspace, reporter, report)
        measure(options, deployed, workspace, reporter, report)
        coming = [REPORT, PAGE] if options.html else [REPORT]
        report.finish(reporter, time.perf_counter() - started, workspace, coming)
        if options.html:
            write_page(report, workspace, reporter)
        save_report(report, workspace.path(REPORT))


def graph_of(inputs: Inputs) -> FoldedGraph:
    """The folded graph of the classifier, which moves to the device; that of an ONNX file is the user's own."""
    teacher = inputs.teacher
    if teacher.onnx is None:
        return graph_from_model(teacher.module, teacher.spec, inputs.device)
    teacher.module.to(inputs.device)
    return graph_from_onnx(teacher.onnx, teacher.spec, inputs.device)


def capture(inputs: Inputs, workspace: Workspace, reporter: Reporter, report: Report) -> FoldedGraph:
    """The folded graph, and its FP32 ONNX in the workspace, compared with the teacher on random pixels.

    Raises CaptureError where the two differ by more than rounding.
    """
    teacher = inputs.teacher
    with reporter.stage("capture") as stage:
        graph = graph_of(inputs)
        if graph.onnx.ByteSize() >= LARGEST_ONNX:
            raise CaptureError(
                f"expected a network of less than 2 GB in FP32, got {graph.onnx.ByteSize() / 1e9:.1f} GB, more than "
                "one ONNX file can hold; convert a smaller one"
            )
        write_atomic(workspace.path(FP32_ONNX), graph.onnx.SerializeToString())
        x = random_pixels(teacher.spec, max(CHECKED_BATCHES), report.seed).to(inputs.device)
        with torch.no_grad():
            ours = teacher.module(x).cpu().numpy()
        with OnnxRuntimeEngine(workspace.path(FP32_ONNX)) as engine:
            difference = max(
                largest_difference(engine, x[:batch].cpu().numpy(), ours[:batch]) for batch in CHECKED_BATCHES
            )
        if not difference <= SAME * max(1.0, float(np.abs(ours).max())):
            raise CaptureError(
                f"the FP32 ONNX model and PyTorch differ by {difference:.3g} in a logit of at most "
                f"{np.abs(ours).max():.3g}; the network does something that torch.onnx writes wrongly"
            )
        stage.detail = f"{len(graph.onnx.graph.node)} nodes -> {FP32_ONNX}, logits within {difference:.1e}"
    report.model["onnx_largest_difference"] = difference
    return graph


def warn_of_float(graph: FoldedGraph, plan: QuantizationPlan, reporter: Reporter) -> None:
    """Warn where much of the network stays in float, whatever the ranges are."""
    percent = float_macs_percent(graph.onnx, plan)
    if percent >= MUCH_FLOAT:
        reporter.warn(
            f"{percent:.0f} % of the multiply-adds stay in float: they multiply two activations, or weights that are "
            "not constant or not two-dimensional, which get no quantizers"
        )


def require_ranges(inputs: Inputs, plan: QuantizationPlan) -> None:
    """Raise CacheError where ``--calibration-cache`` lacks ranges of the plan: before the training, not after it."""
    if inputs.cached is not None:
        inputs.cached.selected(plan.observed)


def largest_difference(
    engine: OnnxRuntimeEngine,
    x: Float[np.ndarray, "batch channels height width"],
    expected: NDArray[np.float32],
) -> float:
    """How far a logit of the FP32 ONNX model is from PyTorch's ``expected``; raises CaptureError for another shape."""
    try:
        logits = engine.run(x)
    except BuildError as error:
        raise CaptureError(
            f"the FP32 ONNX model fails on a batch of {len(x)}: {error}; {ANY_BATCH}"
        ) from error
    if logits.shape != expected.shape:
        raise CaptureError(
            f"expected the FP32 ONNX model to give logits of shape {list(expected.shape)} for a batch of {len(x)}, got "
            f"{list(logits.shape)}; {ANY_BATCH}"
        )
    return float(np.abs(expected - logits).max())


def fp32_baseline(inputs: Inputs, workspace: Workspace, reporter: Reporter) -> Predictions | None:
    """What the FP32 network says to the images of ``--val``: read before the long work, in case one is broken."""
    if inputs.val is None:
        return None
    fp32 = fp32_network(inputs.teacher.module, inputs.device, workspace.path(FP32_ONNX))
    with reporter.stage("baseline") as stage, fp32 as network:
        with reporter.progress("baseline", inputs.val.num_samples) as advance:
            baseline = predictions(network, inputs.val, advance)
        count, by = inputs.val.num_samples, fp32_by(inputs.device)
        stage.detail = f"FP32 top-1 {baseline.top1:.2f} % on {count} images, by {by}"
    chance = 100.0 / max(2, inputs.teacher.classes)
    if baseline.top1 < chance + (100.0 - chance) / 10:
        reporter.warn(
            f"the FP32 network is right on only {baseline.top1:.1f} % of --val, hardly more than chance; check "
            "--mean, --std, --resize, --crop and the order of the labels"
        )
    return baseline


def needs_generator(inputs: Inputs, options: ConvertOptions) -> bool:
    """Whether samples are used: real images or cached ranges take their place, unless a generator was named.

    Fine-tuning takes samples too, unless it has images of its own.
    """
    calibrates = inputs.calib is None and inputs.cached is None
    tunes = options.qat is not None and options.qat.data is None
    return options.generator is not None or calibrates or tunes


def generator_for(
    inputs: Inputs, options: ConvertOptions, checkpoint: Path | None, reporter: Reporter, ranks: Ranks
) -> TrainedGenerator | None:
    """A trained generator, where one is needed: that of the user, or a new one."""
    if inputs.generator is not None or not needs_generator(inputs, options):
        return inputs.generator
    return generator_from_teacher(
        inputs.teacher,
        inputs.fingerprint,
        options.synthesis,
        checkpoint=checkpoint,
        device=inputs.device,
        reporter=reporter,
        ranks=ranks,
    )


def synthesise(
    inputs: Inputs,
    options: ConvertOptions,
    workspace: Workspace,
    reporter: Reporter,
    report: Report,
    ranks: Ranks = ALONE,
) -> TrainedGenerator | None:
    """A trained generator, unless real images or cached ranges take its place; its file and its picture."""
    if not needs_generator(inputs, options):
        return None
    with reporter.stage("synthesis") as stage:
        trained = generator_for(inputs, options, workspace.checkpoint, reporter, ranks)
        assert trained is not None
        quality = sample_quality(inputs.teacher.module, samples(trained, inputs, options))
        save_generator(trained, workspace.path("generator.pt"))
        names = inputs.teacher.class_names
        save_picture(
            trained.generator, workspace.path(SAMPLES), seed=options.synthesis.seed, class_names=names
        )
        stage.detail = (
            f"{len(trained.history)} steps, batch-norm KL {quality.bn_kl:.4f}, "
            f"{quality.label_accuracy:.1f} % of samples have their label"
        )
    report.synthesis = {
        "steps": len(trained.history),
        "seconds": round(trained.seconds, 3),
        "bn_kl": quality.bn_kl,
        "label_accuracy": quality.label_accuracy,
        "generators": len(trained.generator.members),
        "classes": trained.generator.config.conditions,
        "shown": [
            {"class": label, "name": names[label] if names else None}
            for label in shown_classes(trained.generator)
        ],
        "reused": options.generator is not None,
        "history": [{"step": step, "bn_kl": kl, "label": label} for step, kl, label in trained.history],
    }
    if not quality.bn_kl <= POOR_STATISTICS:
        reporter.warn(
            f"the samples are far from the batch-norm statistics (KL {quality.bn_kl:.2f} nats, more than "
            f"{POOR_STATISTICS:g}), so their ranges are doubtful; give more --gan-steps, or real images with "
            "--calib-data"
        )
    if quality.label_accuracy < GOOD_LABELS:
        reporter.warn(
            f"the classifier gives the wanted label to only {quality.label_accuracy:.1f} % of the samples; "
            "more --gan-steps make better ones"
        )
    return trained


def save_calibration(
    ranges: Ranges, options: ConvertOptions, workspace: Workspace, reporter: Reporter, report: Report
) -> None:
    """``calibration.json`` and TensorRT's ``calibration.cache``; also to ``--calibration-cache``."""
    version = cache_version(options.trt_version)
    report.calibration["cache_version"] = version.version
    if version.assumed:
        reporter.say(
            f"note: calibration.cache is for TensorRT {version.version}, as no TensorRT 10 is installed here "
            "(--trt-version names another)"
        )
    save_ranges(ranges, workspace.path("calibration.json"))
    save_cache(ranges, workspace.path("calibration.cache"), version=version.number)
    path = options.calibration_cache
    if path is None or not (options.recalibrate or not path.exists()):
        return
    try:
        save_ranges(ranges, path.with_suffix(".json"))
        if path.suffix != ".json":
            save_cache(ranges, path, version=version.number)
    except OSError as error:
        raise CacheError(
            f"expected to write {path}, but: {error.strerror}; check --calibration-cache"
        ) from error


def quantize(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    ranges: Ranges,
    workspace: Workspace,
    reporter: Reporter,
    report: Report,
) -> None:
    """The INT8 ONNX with Q/DQ in the workspace, checked by ``onnx.checker``."""
    with reporter.stage("quantize") as stage:
        model = qdq_from_onnx(graph.onnx, plan, ranges.amax)
        onnx.checker.check_model(model, full_check=True)
        write_atomic(workspace.path(INT8_ONNX), model.SerializeToString())
        percent = float_macs_percent(graph.onnx, plan)
        in_float = f", {percent:.1f} % of the multiply-adds in float" if percent else ""
        counts = f"{len(plan.weights)} weights and {len(plan.activations)} activations"
        stage.detail = f"{counts} in INT8{in_float} -> {INT8_ONNX}"
    report.calibration |= {
        "algorithm": ranges.algorithm,
        "samples": ranges.samples,
        "source": ranges.source,
        "ranges": ranges.selected(plan.observed).amax,
    }
    report.quantization = {
        "weights": len(plan.weights),
        "activations": len(plan.activations),
        "float_macs_percent": percent,
        "edges": edges_from_plan(plan, ranges.amax),
    }


def write_page(report: Report, workspace: Workspace, reporter: Reporter) -> None:
    """``report.html``; a page that can't be made costs nothing else of the conversion."""
    try:
        save_page(report, workspace.path(SAMPLES), workspace.path(PAGE))
    except TemplateError as error:
        reporter.warn(
            f"{PAGE} could not be made ({error}), which is a fault of this program; all else is there"
        )
        report.warnings = list(reporter.warnings)
        del report.artifacts[PAGE]
