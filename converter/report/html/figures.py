"""The report's figures as charts."""

from collections.abc import Callable, Sequence

from markupsafe import Markup

from converter.report.document import LayerSensitivity, Report, StageSection
from converter.report.html.charts import Bar, Order, bars, line
from converter.report.html.formats import UNKNOWN, Number, number, seconds, words

IN_ORDER, BY_NAME = Order("as in the network"), Order("by name")


def ranges(report: Report) -> Markup:
    """The amax of each tensor with a quantizer of its own."""
    rows = [
        Bar(name, amax, number(amax), f"{name}: amax {number(amax)}", (place, amax, amax, name))
        for place, (name, amax) in enumerate(report.calibration.ranges.items())
    ]
    orders = (IN_ORDER, Order("largest first", descending=True), Order("smallest first"), BY_NAME)
    return bars("Range of each activation (amax)", rows, orders)


def divergences(report: Report) -> Markup:
    """What each calibrator's INT8 network loses."""
    taken = report.calibration.algorithm
    rows = [
        Bar(f"{name} (taken)" if name == taken else name, kl, number(kl), f"{name}: {_nats(kl)}")
        for name, kl in (report.calibration.divergence or {}).items()
    ]
    return bars("KL divergence of INT8 from FP32 by calibrator (nats)", rows)


def statistics_curve(report: Report) -> Markup:
    """How far the samples were from the batch-norm statistics, step by step."""
    history = report.synthesis.history if report.synthesis else []
    points = [(entry.step, entry.bn_kl) for entry in history]
    return _curve("Batch-norm KL divergence (nats, log scale)", points)


def label_curve(report: Report) -> Markup:
    """How far the classifier was from the wanted labels, step by step."""
    history = report.synthesis.history if report.synthesis else []
    return _curve("Label loss (log scale)", [(entry.step, entry.label) for entry in history])


def tuning_curve(report: Report) -> Markup:
    """The loss of the fine-tuning."""
    history = report.qat.history if report.qat else []
    return _curve("Loss of the fine-tuning (log scale)", [(entry.step, entry.loss) for entry in history])


def agreement_curve(report: Report) -> Markup:
    """How far the fine-tuned network agreed with FP32, where that was looked at."""
    history = report.qat.history if report.qat else []
    points = [(entry.step, entry.agreement) for entry in history]
    return _curve("Agreement with FP32 while fine-tuning (%)", points, log=False)


def _curve(title: str, points: Sequence[tuple[int, float | None]], *, log: bool = True) -> Markup:
    known = [(step, value) for step, value in points if value is not None]
    return line(title, known, "step", log=log) if len(known) > 1 else Markup("")


def layer_divergences(report: Report) -> Markup:
    """What quantizing each layer alone costs."""
    return _layers(
        report,
        lambda layer: layer.kl,
        "KL divergence with this layer alone in INT8 (nats)",
        worst_is_large=True,
    )


def layer_noise(report: Report) -> Markup:
    """The signal-to-noise ratio of each layer's result with it alone in INT8."""
    return _layers(
        report, lambda layer: layer.sqnr_db, "SQNR with this layer alone in INT8 (dB)", worst_is_large=False
    )


def _layers(
    report: Report, value: Callable[[LayerSensitivity], float | None], title: str, *, worst_is_large: bool
) -> Markup:
    assert report.sensitivity is not None
    rows = [
        Bar(
            layer.name,
            value(layer),
            number(value(layer)),
            _layer_tip(layer),
            (value(layer), value(layer), layer.macs, layer.name),
            not layer.int8,
        )
        for layer in report.sensitivity.layers
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


def _layer_tip(layer: LayerSensitivity) -> str:
    sqnr = UNKNOWN if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"
    return (
        f"{layer.name} ({layer.op}, {'INT8' if layer.int8 else 'float'}): KL {_nats(layer.kl)}, SQNR {sqnr}, "
        f"{words(layer.macs, 'MAC')}, {words(layer.parameters, 'parameter')}"
    )


def stages(report: Report) -> Markup:
    """The time of each stage."""
    rows = [
        Bar(stage.name, stage.seconds, seconds(stage.seconds), _stage_tip(stage)) for stage in report.stages
    ]
    return bars("Seconds of each stage", rows)


def _stage_tip(stage: StageSection) -> str:
    took = f"{stage.name}, {seconds(stage.seconds)}"
    return f"{took}: {stage.detail}" if stage.detail else took


def _nats(kl: Number | None) -> str:
    return UNKNOWN if kl is None else f"{number(kl)} nats"
