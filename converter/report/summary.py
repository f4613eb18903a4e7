"""The last lines on the terminal: the result, the run time, and what to type next."""

import shlex

from converter.report.document import AccuracySection, CPUInt8Section, Report
from converter.workspace import CPU_ENGINE, FP32_ONNX, TENSORRT_ENGINE
from engines.options import ENGINE_TITLES

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


def summary(report: Report, missed: str) -> str:
    """A few lines for a person."""
    lines = ["", *qat_lines(report)]
    if in_float := report.quantization.float_macs_percent:
        lines.append(f"{in_float:.1f} % of the multiply-adds stay in float")
    if report.cpu_int8 is not None and report.cpu_int8.kept_float:
        lines.append(cpu_line(report.cpu_int8))
    if report.calibration.source == "procedural":
        lines.append(PROCEDURAL + why_procedural(report))
    if report.accuracy is not None:
        lines.append(accuracy_line(report.accuracy))
    if report.agreement is not None:
        found = report.agreement
        lines.append(
            f"{agreement_in(found.measure)}: {share(found.percent)} on {found.samples} fresh samples"
        )
    if report.prediction is not None and (report.accuracy is None or report.accuracy.fp32 is None):
        p = report.prediction
        lines.append(
            f"predicted on real data: another class on {p.disagreement:.2f} % ({p.low:.2f} to {p.high:.2f}), "
            f"{p.drop:.2f} points of top-1 lost ({p.drop_low:.2f} to {p.drop_high:.2f})"
        )
    lines += [throughput_line(report, batch) for batch in dict.fromkeys(t.batch for t in report.throughput)]
    lines += [f"{name:<24} {path}" for name, path in report.artifacts.items()]
    verdict = f"MISSED: {missed}; built all the same," if missed else "PASSED"
    lines += ["", f"{verdict} in {report.seconds:.1f} s", f"next: {next_command(report)}"]
    return "\n".join(lines)


def cpu_line(found: CPUInt8Section) -> str:
    """What of ONNX Runtime's engine is in float."""
    kept, slower = len(found.kept_float), found.all_int8_speed
    times = " and ".join(f"{speed:.2f} x at batch {batch}" for batch, speed in slower.items())
    return (
        f"{CPU_ENGINE}: {kept} of {found.layers} layers in float, which is faster on this machine (all in INT8: "
        f"{times} the speed of all in float)"
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


def accuracy_line(a: AccuracySection) -> str:
    """What ``--val`` says."""
    agreement = f"{agreement_in(a.measure)}: {share(a.agreement)}"
    if a.fp32 is None or a.int8 is None:
        return f"{agreement} on {a.images} images of --val"
    return (
        f"{a.metric} on {a.images} images: FP32 {a.fp32:.2f} %, INT8 {a.int8:.2f} % "
        f"({a.int8 - a.fp32:+.2f} points); {agreement}"
    )


def qat_lines(report: Report) -> list[str]:
    """What fine-tuning did, where there was one."""
    if report.qat is None:
        return []
    agreement = report.qat.agreement
    verdict = "" if report.qat.kept == "qat" else "; it was not kept"
    return [
        f"fine-tuning: agreement with FP32 on held-out inputs {agreement.ptq:.2f} % before, "
        f"{agreement.qat:.2f} % after{verdict}"
    ]


def throughput_line(report: Report, batch: int) -> str:
    """FP32, FP16 where it was measured, and INT8 side by side at one batch."""
    rows = [t for t in report.throughput if t.batch == batch]
    speeds = ", ".join(f"{t.precision.upper()} {t.images_per_s:.1f}" for t in rows)
    engine = ENGINE_TITLES[rows[0].engine]
    ratio = rows[-1].images_per_s / rows[0].images_per_s
    return f"{engine}, batch {batch}: {speeds} images/s ({ratio:.2f} x)"


def next_command(report: Report) -> str:
    """What a user will probably want now."""
    paths = report.artifacts
    if report.accuracy is None or (report.accuracy.metric is None and report.model.task == "classes"):
        reuse = f" --generator {shlex.quote(paths['generator.pt'])}" if "generator.pt" in paths else ""
        return f"{report.command}{reuse} --val DIR  ({VAL.get(report.model.task, REAL_IMAGES)})"
    if TENSORRT_ENGINE in paths:
        return f"zscgan-bench {shlex.quote(paths[TENSORRT_ENGINE])} --batch 1,8,32"
    files = shlex.join(paths[name] for name in (FP32_ONNX, CPU_ENGINE))
    return f"zscgan-bench {files} --batch 1,8,32"
