"""The last lines on the terminal: the result, the run time, and what to type next."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from rich.console import RenderableType
from rich.rule import Rule
from rich.text import Text

from converter.report.document import CPUInt8Section, QATSection, Report
from converter.report.files import file_rows
from converter.workspace import CPU_ENGINE, FP32_ONNX, INT8_ONNX, RTX_ENGINE, TENSORRT_ENGINE
from engines.options import ENGINE_TITLES
from zscgan_common.tables import UNBOUNDED, labelled, text_from

DETAIL = frozenset({"", "predicted", "precision", "CPU engine", "fine-tuning", "samples"})
"""Labels of results that are not printed in bold."""
NOT_ON_GPU = "what INT8 gains on an NVIDIA GPU was not measured here: that requires TensorRT and such a GPU"
PROCEDURAL = "calibrated on procedural images"
REAL_IMAGES = "agreement on real images, which need no labels"
VAL = {
    "classes": "accuracy on labelled images",
    "labels": "accuracy on labelled images",
    "boxes": f"{REAL_IMAGES}; mAP where COCO's boxes are beside them",
    "mask": f"{REAL_IMAGES}; mIoU where masks are beside them",
}
"""Task -> what ``--val`` would tell."""


def missed_gate(report: Report, max_drop: float | None) -> str:
    """Why ``--max-drop`` was missed; empty where it was met or not set."""
    drop, how = loss(report)
    if (
        max_drop is None or drop is None or round(drop, 6) <= max_drop
    ):  # 92.4 - 91.8 is a little more than 0.6
        return ""
    return f"INT8 loses {drop:.2f} points of {metric_of(report)}{how}, more than --max-drop {max_drop:g}"


def metric_of(report: Report) -> str:
    """What a loss is of."""
    if report.accuracy is not None and report.accuracy.metric is not None:
        return report.accuracy.metric
    if report.model.task == "classes":
        return "top-1"
    found = report.agreement or report.accuracy
    return f"agreement with FP32{f' ({found.measure})' if found else ''}"


def loss(report: Report) -> tuple[float | None, str]:
    """How much INT8 loses, in points, and how that is known: measured on ``--val``, or else estimated."""
    accuracy, mixed = report.accuracy, report.mixed_precision
    if accuracy is not None and accuracy.fp32 is not None and accuracy.int8 is not None:
        return accuracy.fp32 - accuracy.int8, ""
    if report.prediction is not None:
        return report.prediction.drop, ", as predicted without labels"
    if mixed is not None:
        how = (
            "predicted without labels" if mixed.by == "prediction" else "measured against FP32 without labels"
        )
        return mixed.drop, f", as {how}"
    return None, ""


def summary(report: Report, missed: str, *, width: int = UNBOUNDED, styled: bool = False) -> str:
    """The result, where the files are and what to do next, for a terminal of ``width`` columns or a pipe."""
    results: list[tuple[RenderableType, RenderableType]] = [
        (Text(f"  {label}", "bold"), Text(text, "" if label in DETAIL else "bold"))
        for label, text in result_rows(report)
    ]
    files: list[tuple[RenderableType, RenderableType]] = [
        (f"  {name}", Text(text, "dim")) for name, text in file_rows(report)
    ]
    parts: list[RenderableType] = [
        Rule(style="dim") if styled else "",
        verdict(report, missed),
        "",
        labelled(results),
        "",
    ]
    if files:
        parts += [f"files in {folder_of(report)}:", labelled(files), ""]
    # As it is typed: a command must not be cut into lines.
    steps = [line for what, command in next_steps(report) for line in (f"  {what}:", f"    {command}")]
    return "\n".join([text_from(*parts, width=width, styled=styled), "next:", *steps])


def verdict(report: Report, missed: str) -> Text:
    """Whether it went well, how long it took, and whether there were warnings."""
    style = "bold red" if missed else "bold green"
    found = Text(f"MISSED: {missed}; built all the same," if missed else "PASSED", style)
    found.append(f" in {report.seconds:.1f} s", "bold")
    if number := len(report.warnings):
        warnings = "1 warning" if number == 1 else f"{number} warnings"
        found.append(f", with {warnings} (see above, or report.json)", "yellow")
    return found


def result_rows(report: Report) -> Iterator[tuple[str, str]]:
    """What was found, the most important first: a label and a text each."""
    yield from accuracy_rows(report)
    yield from size_rows(report)
    yield from speed_rows(report)
    if in_float := report.quantization.float_macs_percent:
        yield "precision", f"{in_float:.1f} % of the multiply-adds stay in float"
    if report.cpu_int8 is not None and report.cpu_int8.in_float:
        yield "CPU engine", cpu_line(report.cpu_int8)
    if report.qat is not None:
        yield "fine-tuning", fine_tuning_line(report.qat)
    if report.calibration.source == "procedural":
        yield "samples", PROCEDURAL + why_procedural(report)


def accuracy_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Accuracy on labels, agreement with FP32, and what is predicted where there are no labels."""
    found, fresh, predicted = report.accuracy, report.agreement, report.prediction
    if found is not None:
        images = f"on {found.images} images of --val"
        if found.fp32 is not None and found.int8 is not None:
            change = f"{found.int8 - found.fp32:+.2f} points"
            yield str(found.metric), f"FP32 {found.fp32:.2f} % -> INT8 {found.int8:.2f} % ({change}) {images}"
        yield "agreement", f"{agreement_in(found.measure)}: {share(found.agreement)} {images}"
    if fresh is not None:
        agreement = f"{agreement_in(fresh.measure)}: {share(fresh.percent)}"
        yield "" if found else "agreement", f"{agreement} on {fresh.samples} fresh samples"
    if found is None and fresh is None:
        yield "agreement", "not measured: there were neither samples nor --val"
    if predicted is not None and (found is None or found.fp32 is None):
        p = predicted
        others = f"another class on {p.disagreement:.2f} % ({p.low:.2f} to {p.high:.2f})"
        lost = f"{p.drop:.2f} points of top-1 lost ({p.drop_low:.2f} to {p.drop_high:.2f})"
        yield "predicted", f"on real data {others}, {lost}"


def size_rows(report: Report) -> Iterator[tuple[str, str]]:
    """The size of the INT8 network beside that of FP32."""
    sizes = report.artifact_bytes
    if FP32_ONNX in sizes and INT8_ONNX in sizes:
        before, after = sizes[FP32_ONNX], sizes[INT8_ONNX]
        yield "size", f"FP32 {before / 1e6:.2f} MB -> INT8 {after / 1e6:.2f} MB ({after / before:.0%} of it)"


def speed_rows(report: Report) -> Iterator[tuple[str, str]]:
    """What was measured on which engine, the throughput by batch, and what was not measured although asked for."""
    if not report.throughput:
        return
    yield "speed", f"{engine_in_words(report)}, images/s:"
    for batch in dict.fromkeys(t.batch for t in report.throughput):
        yield "", throughput_line(report, batch)
    if not_on_gpu(report):
        yield "", NOT_ON_GPU


def not_on_gpu(report: Report) -> bool:
    """Whether the speed is that of a CPU alone, which ``--engine`` did not ask for."""
    on_cpu = all(t.engine == "onnxruntime" for t in report.throughput)
    return on_cpu and report.options.get("engine") != "onnxruntime"


def folder_of(report: Report) -> Path:
    """The output folder."""
    return Path(next(iter(report.artifacts.values()))).parent


def cpu_line(found: CPUInt8Section) -> str:
    """What of ONNX Runtime's engine is in float."""
    times = " and ".join(f"{speed:.2f} x at batch {batch}" for batch, speed in found.all_int8_speed.items())
    return (
        f"{found.in_float}, which is faster on this machine (all in INT8: {times} the speed of all in float)"
    )


def why_procedural(report: Report) -> str:
    """Why no generator was trained; empty where a cache doesn't tell."""
    if report.options.get("sample_source") == "procedural":
        return ", as --samples asks for"
    return "" if report.model.bn_layers else ": the network has no batch norm"


def share(agreement: float | None) -> str:
    """An agreement; FP32 found nothing to agree on where it is None."""
    return "not measured, as FP32 finds nothing" if agreement is None else f"{agreement:.2f} %"


def agreement_in(measure: str) -> str:
    """What a percentage of agreement is of."""
    return f"{measure} as FP32" if measure.startswith("same ") else f"agreement with FP32 ({measure})"


def fine_tuning_line(qat: QATSection) -> str:
    """What fine-tuning did."""
    before, after = qat.agreement.ptq, qat.agreement.qat
    kept = "" if qat.kept == "qat" else "; it was not kept"
    return f"agreement with FP32 on held-out inputs {before:.2f} % before, {after:.2f} % after{kept}"


def throughput_line(report: Report, batch: int) -> str:
    """FP32, FP16 where it was measured, and INT8 or a CPU engine that is partly in float, side by side at one batch."""
    rows = [t for t in report.throughput if t.batch == batch]
    in_float = report.cpu_int8 is not None and report.cpu_int8.in_float and rows[-1].engine == "onnxruntime"
    names = [*(t.precision.upper() for t in rows[:-1]), "engine" if in_float else "INT8"]
    speeds = ", ".join(f"{name} {t.images_per_s:.1f}" for name, t in zip(names, rows, strict=True))
    return f"batch {batch}: {speeds} ({rows[-1].images_per_s / rows[0].images_per_s:.2f} x)"


def engine_in_words(report: Report) -> str:
    """What was measured, and on what."""
    engine, gpu = report.throughput[0].engine, (report.device.measured_on or {}).get("name")
    return f"{ENGINE_TITLES[engine]} on {'this CPU' if engine == 'onnxruntime' else gpu or 'this GPU'}"


def next_steps(report: Report) -> Iterator[tuple[str, str]]:
    """What a user will probably want now: in words, and the command."""
    paths = {name: shlex.quote(path) for name, path in report.artifacts.items()}
    if report.accuracy is None or (report.accuracy.metric is None and report.model.task == "classes"):
        reuse = f" --generator {paths['generator.pt']}" if "generator.pt" in paths else ""
        yield f"measure {VAL.get(report.model.task, REAL_IMAGES)}", f"{report.command}{reuse} --val DIR"
    plan = next((name for name in (TENSORRT_ENGINE, RTX_ENGINE) if name in paths), None)
    if plan is not None and report.throughput and not_on_gpu(report):
        yield "measure the plan on a machine with such a GPU", f"zscgan-bench {paths[plan]} --batch 1,8,32"
    elif plan is not None:
        yield "measure other batches", f"zscgan-bench {paths[plan]} --batch 1,8,32"
    elif report.options.get("engine") == "onnxruntime":
        yield "measure other batches", f"zscgan-bench {paths[FP32_ONNX]} {paths[CPU_ENGINE]} --batch 1,8,32"
    elif INT8_ONNX in paths:
        build = f"zscgan-build {paths[INT8_ONNX]} --engine tensorrt -o {TENSORRT_ENGINE}"
        yield "build the engine on the machine with the GPU (trtexec does it too)", build
