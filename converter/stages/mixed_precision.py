"""The stage that keeps the fewest layers out of INT8 for ``--max-drop``, and tells what each of them is worth."""

from dataclasses import dataclass

from calibrators.data.batches import Batches, first_inputs
from calibrators.ranges.ranges import Ranges
from converter.errors import OptionsError
from converter.graph.capture import FoldedGraph
from converter.job import Job, SampleUse
from converter.quantize.placement import QuantizationPlan
from converter.report.document import KeptFloat, MixedPrecisionSection
from converter.samples import SampleSource
from converter.stages.capture import Captured
from converter.stages.fine_tuning import Tuned
from converter.stages.judges import judges_of
from converter.trust.accuracy_drop import AgreementDrop, DropOf, MeasuredDrop, PredictedDrop
from converter.trust.answers import Answers, array_of
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
from converter.trust.prediction import MOST_INPUTS, border_inputs, margins_of, procedural_inputs
from converter.trust.sensitivity import Sensitivity
from converter.trust.trial_engine import UNQUANTIZED, run_trial
from zscgan_common.warning_message import WarningMessage


@dataclass(frozen=True)
class Mixed:
    """The plan to write, and the choice's section of the report where there was one."""

    plan: QuantizationPlan
    section: MixedPrecisionSection | None = None


def require_means(job: Job) -> None:
    """Raise OptionsError where nothing tells what a conversion with ``--max-drop`` loses."""
    options = job.options
    if options.max_drop is None or job.val is not None or job.calib is not None:
        return
    if job.cached is not None and options.generator is None:
        raise OptionsError(
            f"--max-drop takes inputs to measure the loss on, but the ranges come from {options.calibration_cache} and "
            "there are no samples; add --generator FILE of an earlier run, or images with --val"
        )


def choose_precision(
    job: Job,
    fp32: Captured,
    tuned: Tuned,
    sensitivity: Sensitivity | None,
    baseline: Answers | None,
    samples: SampleSource | None,
) -> Mixed:
    """The plan of ``fp32`` without the layers that ``--max-drop`` calls for; without that option, or a need, as it is.

    ``tuned`` has the network that is quantized, which fine-tuning may have changed.
    TensorRT's implicit quantization places its own quantizers, so with ``--implicit`` the option is a gate alone.
    """
    target, console = job.options.max_drop, job.console
    if target is None or sensitivity is None:
        return Mixed(fp32.plan)
    if job.options.implicit:
        console.info(
            "note: --implicit leaves it to TensorRT what runs in INT8, so --max-drop keeps no layer out of it there; "
            "it still decides the exit code (leave --implicit out for mixed precision)"
        )
        return Mixed(fp32.plan)
    candidates = candidates_from_onnx(tuned.graph.onnx, fp32.plan)
    with console.stage("mixed") as stage, console.progress("mixed", MOST_TRIES) as advance:
        drop_of = drop_of_plans(job, fp32.graph, tuned.graph, tuned.ranges, baseline, samples)
        tried = 0

        def drop(excluded: Excluded) -> float:
            nonlocal tried
            tried += 1
            found = drop_of(candidates.plan(excluded))
            advance(tried, f"{len(excluded)} groups in float: {found:.2f} points")
            return found

        choice = fewest_excluded(order_of_exclusion(candidates, sensitivity), drop, target)
        section = section_of(choice, candidates, sensitivity, target, drop_of.by)
        stage.detail = (
            f"{len(candidates.layers(choice.excluded))} layers kept in float, {section.int8_macs_share:.1f} % of the "
            f"multiply-adds in INT8: {choice.drop:.2f} points lost by {drop_of.by}, {choice.all_int8_drop:.2f} with "
            "all in INT8"
        )
    tell(section, job)
    return Mixed(candidates.plan(choice.excluded), section)


def drop_of_plans(
    job: Job,
    fp32: FoldedGraph,
    graph: FoldedGraph,
    ranges: Ranges,
    baseline: Answers | None,
    samples: SampleSource | None,
) -> DropOf:
    """How the drop of ``graph`` from ``fp32`` is known: by labels of ``--val`` where there are, else estimated."""
    if job.val is not None and baseline is not None:
        return MeasuredDrop(graph, ranges, job.val, baseline)
    if job.task.name != "classes":
        return AgreementDrop(graph, ranges, job.task, job.val or unlabelled(job, samples), fp32)
    inputs = unlabelled(job, samples)
    x = array_of(first_inputs(inputs, MOST_INPUTS))
    with run_trial(fp32, UNQUANTIZED, {}) as network:
        logits = job.task.decision_logits(network(x))
        procedural = procedural_inputs(job.teacher.spec, job.batch, job.seed)
        margins = margins_of(network, job.task, procedural)
    assert logits is not None  # of a classifier
    return PredictedDrop(graph, ranges, job.task, x, logits, margins)


def unlabelled(job: Job, samples: SampleSource | None) -> Batches:
    """What a loss is predicted on: samples that neither trained nor calibrated, or the real images."""
    if samples is not None:
        count = judges_of(job.task, samples, MOST_INPUTS)
        return border_inputs(samples, count, job.batch, job.seed + SampleUse.CHOOSING)
    images = job.calib or job.val
    assert images is not None
    return images


def section_of(
    choice: Choice, candidates: Candidates, sensitivity: Sensitivity, target: float, by: str
) -> MixedPrecisionSection:
    """The report's ``mixed_precision``."""
    everything = frozenset(range(len(candidates.groups)))
    return MixedPrecisionSection(
        target=target,
        met=choice.met,
        by=by,
        drop=choice.drop,
        all_int8_drop=choice.all_int8_drop,
        kept_float=[
            KeptFloat(
                layers=list(candidates.groups[position].layers),
                macs_share=candidates.macs_share(frozenset({position})),
                kl=sensitivity.kl(candidates.groups[position].parts),
                drop_without=choice.without.get(position),
            )
            for position in sorted(choice.excluded)
        ],
        int8_macs_share=candidates.macs_share(everything - choice.excluded),
        tried=choice.tried,
    )


def tell(section: MixedPrecisionSection, job: Job) -> None:
    """Each group's price on a line, and a warning where the target was not met."""
    for kept in section.kept_float:
        price = (
            f"; in INT8 again it would cost {kept.drop_without - section.drop:+.2f} points"
            if kept.drop_without is not None
            else ""
        )
        job.console.info(
            f"  float: {', '.join(kept.layers)} ({kept.macs_share:.1f} % of the multiply-adds){price}"
        )
    if not section.met:
        job.console.warn(
            WarningMessage(
                "max-drop-missed",
                f"no choice that keeps {LEAST_INT8:g} % of the multiply-adds in INT8 loses at most "
                f"{section.target:g} points; the best of {section.tried} is built, which loses {section.drop:.2f}",
                "Fine-tune with --qat, calibrate with real images (--calib-data), or allow a larger --max-drop.",
            )
        )
