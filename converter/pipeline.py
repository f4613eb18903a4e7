"""The whole way from MODEL to engine and report."""

import sys
import time
from dataclasses import replace
from typing import NoReturn

import torch
from jinja2 import TemplateError

from calibrators.kernels import exact_kernels
from calibrators.zscgan.training import require_even_shares
from converter.console import Console
from converter.environment.machine import processor
from converter.environment.versions import versions
from converter.errors import OptionsError
from converter.job import Job, job_from_options
from converter.options import ConvertOptions
from converter.out_of_memory import BATCHED, memory_error_in, out_of_memory
from converter.quantize.placement import place_quantizers
from converter.report.document import (
    PAGE,
    REPORT,
    CalibrationSection,
    DeviceSection,
    ModelSection,
    QuantizationSection,
    Report,
    StageSection,
    plain,
    save_report,
)
from converter.report.html.page import save_page
from converter.report.quantizer_rows import edges_from_plan
from converter.stages.baseline import fp32_baseline
from converter.stages.benchmark import benchmark
from converter.stages.build import build
from converter.stages.calibration import calibrate_network, measure_ranges
from converter.stages.capture import capture, graph_of
from converter.stages.fine_tuning import fine_tune, tune_together
from converter.stages.mixed_precision import choose_precision, require_means
from converter.stages.quantize import quantize
from converter.stages.sensitivity import measure_costs
from converter.stages.synthesis import samples_for, synthesise
from converter.stages.verify import verify
from converter.torchrun.ranks import ranks_of_this_run
from converter.torchrun.watchdog import on_forced_exit
from converter.workspace import ANSWERS, SAMPLES
from engines.errors import EngineError
from zscgan_common.warning_message import WarningMessage


def convert(options: ConvertOptions, console: Console, command: str) -> Report:
    """Run every stage; the outputs are in the output folder when this returns.

    Raises ConversionError, CalibrationError or EngineError for what the user can fix. Then no output folder
    is left; the training of the generator is kept beside it for the next try.

    Under torchrun the processes share the training and the calibration, and the first does the rest; the others
    end in here.
    """
    started = time.perf_counter()
    with exact_kernels(), ranks_of_this_run(options.device) as ranks:
        job: Job | None = None
        try:
            job = job_from_options(options, console, ranks)
            require_shares(job)
            require_means(job)
            if not ranks.first:
                run_worker(job)
            return lead(job, command, started)
        except Exception as error:  # memory runs out anywhere, and each library says it in its own way
            if memory_error_in(error) is None or is_told_by_engine(error, console.failed):
                raise
            trained = options.generator is None and any(done.name == "synthesis" for done in console.stages)
            raise out_of_memory(error, console.failed, job, options, trained=trained, ranks=ranks) from error


def is_told_by_engine(error: Exception, stage: str | None) -> bool:
    """Whether an engine has said what to do about its own memory, which hangs on nothing of the training."""
    return isinstance(error, EngineError) and stage not in BATCHED


def require_shares(job: Job) -> None:
    """Raise OptionsError where the ranks can't share the batches of the training that the options call for."""
    if job.options.qat is not None or (
        job.options.generator is None and job.needs_samples and not job.procedural
    ):
        try:
            require_even_shares(job.batch, job.ranks)
        except ValueError as error:
            raise OptionsError(str(error)) from error


def run_worker(job: Job) -> NoReturn:
    """Take this process's part in the training and in the calibration, then end it."""
    with job.console.stage("capture"):
        graph = graph_of(job)
    with job.console.stage("synthesis"):
        samples = samples_for(job)
    if job.cached is None:
        with job.console.stage("calibration"):
            measure_ranges(job, graph, job.calibration_data(samples))
    if job.options.qat is not None:
        with job.console.stage("qat"):
            tune_together(job, graph, place_quantizers(graph.onnx), {}, samples)
    job.ranks.leave()
    sys.exit(0)


def lead(job: Job, command: str, started: float) -> Report:
    """Run every stage on the first rank; ``started`` is when the conversion did, by ``time.perf_counter``."""
    with job.workspace, on_forced_exit(job.workspace.abandon):
        fp32 = capture(job)
        baseline = fp32_baseline(job)
        synthesis = synthesise(job)
        samples = synthesis.samples
        calibrated = calibrate_network(job, fp32.graph, fp32.plan, samples)
        tuned = fine_tune(job, fp32.graph, fp32.plan, calibrated.ranges, samples)
        job.ranks.leave()
        costs = measure_costs(job, tuned.graph, fp32.plan, tuned.ranges, samples)
        mixed = choose_precision(job, fp32, tuned, costs.sensitivity if costs else None, baseline, samples)
        float_macs_percent = quantize(job, tuned.graph, mixed.plan, tuned.ranges)
        built = build(job, samples)
        verified = verify(job, built.deployed, baseline, samples)
        measured = benchmark(job, built.deployed)
        report = Report(
            command=command,
            options=plain(job.options),
            seed=job.seed,
            device=replace(device_of(job), measured_on=measured.measured_on),
            versions=versions(),
            model=model_of(job, fp32.largest_difference),
            calibration=CalibrationSection(
                cache_version=calibrated.cache_version,
                algorithm=tuned.ranges.algorithm,
                samples=tuned.ranges.samples,
                source=tuned.ranges.source,
                ranges=dict(tuned.ranges.selected(mixed.plan.observed).amax),
                divergence=calibrated.divergence,
            ),
            quantization=QuantizationSection(
                weights=len(mixed.plan.weights),
                activations=len(mixed.plan.activations),
                float_macs_percent=float_macs_percent,
                edges=edges_from_plan(mixed.plan, tuned.ranges.amax),
                convolutions=built.convolutions,
                int8_convolutions=built.int8_convolutions,
            ),
            synthesis=synthesis.section,
            engine=built.layers,
            cpu_int8=replace(built.cpu_int8, agreement=verified.partly_float),
            agreement=verified.agreement,
            accuracy=verified.accuracy,
            qat=tuned.section,
            sensitivity=costs.with_plan(tuned.graph, mixed.plan) if costs else None,
            mixed_precision=mixed.section,
            prediction=verified.prediction,
            throughput=measured.throughput,
        )
        return write_report(job, report, started)


def device_of(job: Job) -> DeviceSection:
    """The machine of the conversion."""
    gpu = torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else None
    return DeviceSection(job.device.type, gpu, processor(), torch.get_num_threads(), job.ranks.world)


def model_of(job: Job, largest_difference: float) -> ModelSection:
    """The network that was converted."""
    teacher = job.teacher
    return ModelSection(
        name=teacher.name,
        sha256=teacher.sha256,
        parameters=teacher.parameters,
        bn_layers=teacher.bn_layers,
        classes=job.task.classes if job.task.classes > 1 else None,
        input=teacher.spec,
        normalisation_from=teacher.normalisation_from,
        task=job.task.name,
        outputs={name: list(output.shape[1:]) for name, output in teacher.probe.items()},
        notes=list(teacher.notes),
        onnx_largest_difference=largest_difference,
    )


def write_report(job: Job, report: Report, started: float) -> Report:
    """``report`` with what is known at the end, as it was written to ``report.json`` and, if asked for, as a page."""
    workspace = job.workspace
    coming = [REPORT, PAGE] if job.options.html else [REPORT]
    written = workspace.files()
    report = replace(
        report,
        seconds=round(time.perf_counter() - started, 3),
        stages=[StageSection(stage.name, stage.seconds, stage.detail) for stage in job.console.stages],
        artifacts={name: str(workspace.output / name) for name in [*written, *coming]},
        artifact_bytes={name: workspace.path(name).stat().st_size for name in written},
    )
    report = with_warnings(report, job.console)
    if job.options.html:
        report = write_page(job, report)
    save_report(report, workspace.path(REPORT))
    return report


def with_warnings(report: Report, console: Console) -> Report:
    """``report`` with all that the user was warned of."""
    return replace(report, warnings=list(map(str, console.warnings)), warning_details=list(console.warnings))


def write_page(job: Job, report: Report) -> Report:
    """``report.html``; a page that can't be made costs nothing else of the conversion. The report as it is then."""
    try:
        save_page(report, *map(job.workspace.path, (SAMPLES, PAGE, ANSWERS)))
    except TemplateError as error:
        job.console.warn(
            WarningMessage(
                "no-page",
                f"{PAGE} could not be made ({error}), which is a fault of this program; all else is there",
                "report.json has all figures of the page.",
            )
        )
        artifacts = {name: path for name, path in report.artifacts.items() if name != PAGE}
        return with_warnings(replace(report, artifacts=artifacts), job.console)
    return report
