"""The first screen, for somebody who reads nothing else: one sentence, three numbers, what is in doubt."""

from dataclasses import dataclass

from converter.report.document import AccuracySection, Report, ThroughputSection
from converter.report.html.findings import WANTED, Speed, built_engine, bytes_saved, kept_layers, speeds
from converter.report.html.formats import capital, change, number, percent, points, size, times, words
from converter.report.summary import metric_of, missed_gate
from converter.trust.prediction import Prediction
from converter.workspace import FP32_ONNX, INT8_ONNX
from engines.options import ENGINE_TITLES

NOT_MEASURED = "not measured"
EQUAL = "is as accurate as FP32"
NO_GPU = "Speed on an NVIDIA GPU was not measured."


@dataclass(frozen=True)
class KeyNumber:
    """One of the three: ``value`` in large letters, ``note`` below it; ``clause`` says it in the headline."""

    title: str
    value: str
    note: str
    clause: str = ""


def headline(report: Report) -> str:
    """The result in one sentence: accuracy, size, the engine, and where ranges and weights come from."""
    clauses = [number.clause for number in (accuracy(report), file_size(report)) if number.clause]
    made = f"it was built for {built_engine(report)}, {how(report)}"
    return f"INT8 {' and '.join(clauses)}; {made}."


def how(report: Report) -> str:
    """Where its ranges and its weights come from."""
    source = report.calibration.source
    made = {"images": "calibrated with real images", "procedural": "calibrated on procedural images"}
    if report.synthesis is None and source != "images":
        text = "with the ranges of a cache"
    else:
        text = made.get(source, "calibrated without data")
    if report.qat is not None and report.qat.kept == "qat":
        text += " and fine-tuned"
    kept = kept_layers(report)
    return f"{text}, with {words(kept, 'layer')} kept in float" if kept else text


def missed(report: Report) -> str:
    """That ``--max-drop`` was missed; empty where it was met or not set."""
    return missed_gate(report, report.options.get("max_drop"))


def key_numbers(report: Report) -> tuple[KeyNumber, KeyNumber, KeyNumber]:
    """Accuracy or agreement, size, speed."""
    return accuracy(report), file_size(report), speed(report)


def accuracy(report: Report) -> KeyNumber:
    """The best that is known: measured, predicted, or how often INT8 says what FP32 says."""
    found = report.accuracy
    if found is not None and found.fp32 is not None and found.int8 is not None:
        return _measured(found, metric_of(report), found.fp32, found.int8)
    wanted = WANTED.get(report.model.task)
    unknown = f"Accuracy was not measured: give {wanted} with --val." if wanted else ""
    return (
        _agreement(report, unknown) if report.prediction is None else _predicted(report.prediction, unknown)
    )


def _measured(found: AccuracySection, metric: str, fp32: float, int8: float) -> KeyNumber:
    difference = int8 - fp32
    if round(difference, 2) == 0:
        clause = EQUAL
    else:
        clause = (
            f"{'gains' if difference > 0 else 'loses'} {points(abs(difference))} of {metric} against FP32"
        )
    against = "The same as FP32" if clause == EQUAL else f"FP32: {percent(fp32)} ({change(difference)})"
    note = f"{against}, on {words(found.images, 'labelled image')}."
    return KeyNumber(f"Accuracy ({metric})", percent(int8), note, clause)


def _predicted(guess: Prediction, unknown: str) -> KeyNumber:
    between = f"Between {number(guess.drop_low)} and {number(guess.drop_high)}"
    return KeyNumber(
        "Predicted loss of top-1",
        f"{number(guess.drop)} points",
        f"{between} with {guess.confidence:g}\N{NO-BREAK SPACE}% confidence. {unknown}",
        f"is predicted to lose {number(guess.drop)} points of top-1 against FP32",
    )


def _agreement(report: Report, unknown: str) -> KeyNumber:
    """On the images of ``--val``, else on samples."""
    title = "Agreement with FP32"
    if report.accuracy is not None:
        inputs = words(report.accuracy.images, "real image")
        measure, value = report.accuracy.measure, report.accuracy.agreement
    elif report.agreement is not None:
        inputs = words(report.agreement.samples, "fresh sample")
        measure, value = report.agreement.measure, report.agreement.percent
    else:
        return KeyNumber(title, NOT_MEASURED, unknown, "was not compared with FP32")
    if value is None:
        clause = f"was not compared with FP32, which finds nothing in {inputs}"
        return KeyNumber(title, NOT_MEASURED, f"FP32 finds nothing in {inputs}. {unknown}", clause)
    clause = f"agrees with FP32 by {percent(value)} on {inputs}"
    return KeyNumber(title, percent(value), f"{capital(measure)}, on {inputs}. {unknown}", clause)


def file_size(report: Report) -> KeyNumber:
    """The INT8 ONNX file beside the FP32 one."""
    saved = bytes_saved(report)
    if saved is None:
        return KeyNumber("Size", "not known", "The report has no size of both files.")
    fp32, int8 = (report.artifact_bytes.get(name) for name in (FP32_ONNX, INT8_ONNX))
    note = f"{size(int8)} instead of {size(fp32)}, as ONNX files."
    return KeyNumber("Size", f"{times(saved)} smaller", note, f"is {number(saved)} times smaller")


def speed(report: Report) -> KeyNumber:
    """INT8 beside FP32 at the smallest batch, in the engine that was built if that was measured."""
    title = "Speed against FP32"
    on_gpu = any(entry.engine != "onnxruntime" for entry in report.throughput)
    gpu = "" if on_gpu else NO_GPU
    row = _speed_to_show(report)
    if row is None or row.ratio is None:
        return KeyNumber(title, NOT_MEASURED, gpu)
    int8 = row.figures
    gpu_name = (report.device.measured_on or {}).get("name") or report.device.gpu or "the GPU"
    chip = "the CPU" if int8.engine == "onnxruntime" else gpu_name
    where = f"{ENGINE_TITLES[int8.engine]} on {chip}, batch {int8.batch}"
    images = f"{number(int8.images_per_s)} instead of {number(int8.images_per_s / row.ratio)} images/s"
    return KeyNumber(title, times(row.ratio), f"{images} in {where}{layers_in_float(report, int8)}. {gpu}")


def layers_in_float(report: Report, row: ThroughputSection) -> str:
    """What of ONNX Runtime's engine is not in INT8, as an apposition; empty for other engines."""
    found = report.cpu_int8
    if found is None or not found.in_float or row.engine != "onnxruntime":
        return ""
    return f", {found.in_float}, which is faster there"


def _speed_to_show(report: Report) -> Speed | None:
    rows = [row for row in speeds(report) if row.figures.precision == "int8" and row.ratio is not None]
    built = [row for row in rows if ENGINE_TITLES[row.figures.engine] == built_engine(report)]
    return next(iter(built or rows), None)
