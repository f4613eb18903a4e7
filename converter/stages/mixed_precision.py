"""The stage that keeps the fewest layers out of INT8 for ``--max-drop``, and tells what each of them is worth."""

from typing import Any

from calibrators.ranges.ranges import Ranges
from calibrators.zscgan.sampling import TrainedGenerator
from converter.console import Reporter
from converter.errors import OptionsError
from converter.graph.capture import FoldedGraph
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.quantize.placement import QuantizationPlan
from converter.report.document import Report
from converter.stages.sensitivity import layer_rows
from converter.trust.accuracy_drop import drop_of_plans
from converter.trust.layer_search import (
    LEAST_INT8,
    MOST_TRIES,
    Candidates,
    Choice,
    Excluded,
    candidates_from_onnx,
    fewest_excluded,
    order_of_exclusion,
)
from converter.trust.predictions import Predictions
from converter.trust.sensitivity import Sensitivity


def require_means(inputs: Inputs, options: ConvertOptions) -> None:
    """Raise OptionsError where nothing tells what a conversion with ``--max-drop`` loses."""
    if options.max_drop is None or inputs.val is not None or inputs.calib is not None:
        return
    if inputs.cached is not None and options.generator is None:
        raise OptionsError(
            f"--max-drop takes inputs to measure the loss on, but the ranges come from {options.calibration_cache} and "
            "there are no samples; add --generator FILE of an earlier run, or labelled images with --val"
        )


def mixed_precision(
    inputs: Inputs,
    options: ConvertOptions,
    fp32: FoldedGraph,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    ranges: Ranges,
    sensitivity: Sensitivity | None,
    baseline: Predictions | None,
    generator: TrainedGenerator | None,
    reporter: Reporter,
    report: Report,
) -> QuantizationPlan:
    """``plan`` without the layers that ``--max-drop`` calls for; without that option, or a need, as it is.

    ``fp32`` is the network that was given, ``graph`` the one that is quantized, which fine-tuning has changed.
    TensorRT's implicit quantization places its own quantizers, so with ``--implicit`` the option is a gate alone.
    """
    if options.max_drop is None or sensitivity is None:
        return plan
    if options.implicit:
        reporter.say(
            "note: --implicit leaves it to TensorRT what runs in INT8, so --max-drop keeps no layer out of it there; "
            "it still decides the exit code (leave --implicit out for mixed precision)"
        )
        return plan
    candidates = candidates_from_onnx(graph.onnx, plan)
    with reporter.stage("mixed") as stage, reporter.progress("mixed", MOST_TRIES) as advance:
        drop_of = drop_of_plans(inputs, options, fp32, graph, ranges, baseline, generator)
        tried = 0

        def drop(excluded: Excluded) -> float:
            nonlocal tried
            tried += 1
            found = drop_of(candidates.plan(excluded))
            advance(tried, f"{len(excluded)} groups in float: {found:.2f} points")
            return found

        choice = fewest_excluded(order_of_exclusion(candidates, sensitivity), drop, options.max_drop)
        mixed, kept = candidates.plan(choice.excluded), candidates.layers(choice.excluded)
        document = document_from_choice(choice, candidates, sensitivity, options.max_drop, drop_of.by)
        stage.detail = (
            f"{len(kept)} layers kept in float, {document['int8_macs_share']:.1f} % of the multiply-adds "
            f"in INT8: {choice.drop:.2f} points lost by {drop_of.by}, {choice.all_int8_drop:.2f} with all in INT8"
        )
    report.mixed_precision = document
    report.sensitivity = (report.sensitivity or {}) | {"layers": layer_rows(sensitivity, graph, mixed)}
    tell(document, reporter)
    return mixed


def document_from_choice(
    choice: Choice, candidates: Candidates, sensitivity: Sensitivity, target: float, by: str
) -> dict[str, Any]:
    """The report's ``mixed_precision``; ``drop_without``: the drop with that entry in INT8 again, null if not tried."""
    everything = frozenset(range(len(candidates.groups)))
    return {
        "target": target,
        "met": choice.met,
        "by": by,
        "drop": choice.drop,
        "all_int8_drop": choice.all_int8_drop,
        "kept_float": [
            {
                "layers": list(candidates.groups[position].layers),
                "macs_share": candidates.macs_share(frozenset({position})),
                "kl": sensitivity.kl(candidates.groups[position].parts),
                "drop_without": choice.without.get(position),
            }
            for position in sorted(choice.excluded)
        ],
        "int8_macs_share": candidates.macs_share(everything - choice.excluded),
        "tried": choice.tried,
    }


def tell(document: dict[str, Any], reporter: Reporter) -> None:
    """Each group's price on a line, and a warning where the target was not met."""
    for entry in document["kept_float"]:
        without = entry["drop_without"]
        price = (
            f"; in INT8 again it would cost {without - document['drop']:+.2f} points"
            if without is not None
            else ""
        )
        reporter.say(
            f"  float: {', '.join(entry['layers'])} ({entry['macs_share']:.1f} % of the multiply-adds){price}"
        )
    if not document["met"]:
        reporter.warn(
            f"no choice that keeps {LEAST_INT8:g} % of the multiply-adds in INT8 loses at most {document['target']:g} "
            f"points; the best of {document['tried']} is built, which loses {document['drop']:.2f}"
        )
