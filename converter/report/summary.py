"""The last lines on the terminal: the result, the run time, and what to type next."""

import shlex

from converter.report.document import Report
from converter.workspace import CPU_ENGINE, FP32_ONNX, TENSORRT_ENGINE
from engines.options import ENGINE_TITLES


def missed_gate(report: Report, max_drop: float | None) -> str:
    """Why ``--max-drop`` was missed; empty where it was met or not set."""
    drop, how = loss(report)
    if (
        max_drop is None or drop is None or round(drop, 6) <= max_drop
    ):  # 92.4 - 91.8 is a little more than 0.6
        return ""
    return f"INT8 loses {drop:.2f} points of top-1{how}, more than --max-drop {max_drop:g}"


def loss(report: Report) -> tuple[float | None, str]:
    """How much top-1 INT8 loses, in points, and how that is known: measured on ``--val``, or else predicted."""
    if report.accuracy is not None:
        return report.accuracy.fp32_top1 - report.accuracy.int8_top1, ""
    predicted = report.prediction or report.mixed_precision
    return (None, "") if predicted is None else (predicted.drop, ", as predicted without labels")


def summary(report: Report, missed: str) -> str:
    """A few lines for a person."""
    lines = ["", *qat_lines(report)]
    if in_float := report.quantization.float_macs_percent:
        lines.append(f"{in_float:.1f} % of the multiply-adds stay in float")
    if report.accuracy is not None:
        a = report.accuracy
        lines.append(
            f"top-1 on {a.images} images: FP32 {a.fp32_top1:.2f} %, INT8 {a.int8_top1:.2f} % "
            f"({a.int8_top1 - a.fp32_top1:+.2f} points); same class on {a.agreement:.2f} %"
        )
    if report.agreement is not None:
        lines.append(f"same class as FP32 on {report.agreement.synthetic_top1:.2f} % of fresh samples")
    if report.prediction is not None and report.accuracy is None:
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


def qat_lines(report: Report) -> list[str]:
    """What fine-tuning did, where there was one."""
    if report.qat is None:
        return []
    agreement = report.qat.agreement
    verdict = "" if report.qat.kept == "qat" else "; it was not kept"
    return [
        f"fine-tuning: same class as FP32 on {agreement.ptq:.2f} % of held-out inputs before, "
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
    if report.accuracy is None:
        reuse = f" --generator {shlex.quote(paths['generator.pt'])}" if "generator.pt" in paths else ""
        return f"{report.command}{reuse} --val DIR  (accuracy on labelled images)"
    if TENSORRT_ENGINE in paths:
        return f"zscgan-bench {shlex.quote(paths[TENSORRT_ENGINE])} --batch 1,8,32"
    files = shlex.join(paths[name] for name in (FP32_ONNX, CPU_ENGINE))
    return f"zscgan-bench {files} --batch 1,8,32"
