"""The report's figures as charts."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from converter.report.document import Report
from converter.report.html.charts import Bar, Order, bars, line
from converter.report.html.formats import UNKNOWN, Number, number, seconds, words

IN_ORDER, BY_NAME = Order("as in the network"), Order("by name")


def ranges(report: Report) -> Markup:
    """The amax of each tensor with a quantizer of its own."""
    rows = [
        Bar(name, amax, number(amax), f"{name}: amax {number(amax)}", (place, amax, amax, name))
        for place, (name, amax) in enumerate(report.calibration["ranges"].items())
    ]
    orders = (IN_ORDER, Order("largest first", descending=True), Order("smallest first"), BY_NAME)
    return bars("Range of each activation (amax)", rows, orders)


def divergences(report: Report) -> Markup:
    """What each calibrator's INT8 network loses."""
    taken = report.calibration["algorithm"]
    rows = [
        Bar(f"{name} (taken)" if name == taken else name, kl, number(kl), f"{name}: {_nats(kl)}")
        for name, kl in report.calibration["divergence"].items()
    ]
    return bars("KL divergence of INT8 from FP32 by calibrator (nats)", rows)


def statistics_curve(report: Report) -> Markup:
    """How far the samples were from the batch-norm statistics, step by step."""
    return _curve(report.synthesis, "bn_kl", "Batch-norm KL divergence (nats, log scale)")


def label_curve(report: Report) -> Markup:
    """How far the classifier was from the wanted labels, step by step."""
    return _curve(report.synthesis, "label", "Label loss (log scale)")


def tuning_curve(report: Report) -> Markup:
    """The loss of the fine-tuning."""
    return _curve(report.qat, "loss", "Loss of the fine-tuning (log scale)")


def agreement_curve(report: Report) -> Markup:
    """How often the fine-tuned network chose the class of FP32, where that was looked at."""
    return _curve(report.qat, "agreement", "Same class as FP32 while fine-tuning (%)", log=False)


def _curve(part: Mapping[str, Any] | None, key: str, title: str, *, log: bool = True) -> Markup:
    history = part["history"] if part is not None else []
    points = [(entry["step"], entry[key]) for entry in history if entry[key] is not None]
    return line(title, points, "step", log=log) if len(points) > 1 else Markup("")


def layer_divergences(report: Report) -> Markup:
    """What quantizing each layer alone costs."""
    return _layers(report, "kl", "KL divergence with this layer alone in INT8 (nats)", worst_is_large=True)


def layer_noise(report: Report) -> Markup:
    """The signal-to-noise ratio at the logits with each layer alone in INT8."""
    return _layers(report, "sqnr_db", "SQNR with this layer alone in INT8 (dB)", worst_is_large=False)


def _layers(report: Report, key: str, title: str, *, worst_is_large: bool) -> Markup:
    assert report.sensitivity is not None
    rows = [
        Bar(
            layer["name"],
            layer[key],
            number(layer[key]),
            _layer_tip(layer),
            _layer_keys(layer, key),
            not layer["int8"],
        )
        for layer in report.sensitivity["layers"]
    ]
    orders = (
        Order("worst first", descending=worst_is_large),
        Order("best first", descending=not worst_is_large),
        Order("most arithmetic first", descending=True),
        BY_NAME,
    )
    ordered = sorted(
        rows, key=lambda row: (row.value is None, (row.value or 0.0) * (-1 if worst_is_large else 1))
    )
    return bars(title, ordered, orders)


def _layer_keys(layer: Mapping[str, Any], key: str) -> tuple[Number | str | None, ...]:
    return layer[key], layer[key], layer["macs"], layer["name"]


def _layer_tip(layer: Mapping[str, Any]) -> str:
    sqnr = layer["sqnr_db"]
    return (
        f"{layer['name']} ({layer['op']}, {'INT8' if layer['int8'] else 'float'}): KL {_nats(layer['kl'])}, "
        f"SQNR {UNKNOWN if sqnr is None else f'{sqnr:.1f} dB'}, {words(layer['macs'], 'MAC')}, "
        f"{words(layer['parameters'], 'parameter')}"
    )


def stages(report: Report) -> Markup:
    """The time of each stage."""
    rows = [
        Bar(stage["name"], stage["seconds"], seconds(stage["seconds"]), _stage_tip(stage))
        for stage in report.stages
    ]
    return bars("Seconds of each stage", rows)


def _stage_tip(stage: Mapping[str, Any]) -> str:
    took = f"{stage['name']}, {seconds(stage['seconds'])}"
    return f"{took}: {stage['detail']}" if stage["detail"] else took


def _nats(kl: Number | None) -> str:
    return UNKNOWN if kl is None else f"{number(kl)} nats"
