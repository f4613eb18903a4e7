"""The stage that compares the engine with the FP32 network."""

from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from calibrators.data.batches import Batches, TensorBatches, first_inputs
from converter.job import Job, SampleUse
from converter.report.answer_sheet import is_drawable, save_answers, worth_showing
from converter.report.document import AccuracySection, AgreementSection, OutputAgreement
from converter.report.summary import share
from converter.samples import SampleSource
from converter.stages.build import Deployed
from converter.stages.judged import Judged, judged_networks
from converter.stages.judges import judges_of
from converter.stages.sensitivity import finite
from converter.trust.answers import Answers, Compared, answers, array_of, compare
from converter.trust.fp32 import fp32_by
from converter.trust.prediction import Prediction, border_inputs, inputs_for, predict, procedural_inputs
from converter.trust.task.boxes import FoundBoxes
from converter.workspace import ANSWERS, CPU_ENGINE, INT8_ONNX
from zscgan_common.warning_message import WarningMessage

LOOKED_AT = 32
"""Inputs among which those for the picture are chosen."""
ON_CPU = 64
"""Inputs on which an engine with layers in float is compared, beside the network with all of them in INT8."""


@dataclass(frozen=True)
class Verified:
    """What is known of INT8's answers; None where there was nothing to measure it on.

    ``partly_float`` is what the engine with layers in float says, where there are some: its agreement with FP32.
    """

    agreement: AgreementSection | None = None
    prediction: Prediction | None = None
    accuracy: AccuracySection | None = None
    partly_float: AgreementSection | None = None


def verify(job: Job, deployed: Deployed, baseline: Answers | None, samples: SampleSource | None) -> Verified:
    """Agreement of FP32 and INT8 on fresh samples, what is predicted from others, and accuracy on ``--val``."""
    if samples is None and job.val is None:
        job.console.warn(
            WarningMessage(
                "nothing-measured",
                "neither samples nor --val: how often INT8 agrees with FP32 was not measured",
                "Nothing is known of this conversion's accuracy. Convert again with --val and real images before you "
                "use it" + ("; labelled ones measure the accuracy." if job.task.metric else "."),
            )
        )
        return Verified()
    with job.console.stage("verify") as stage, ExitStack() as stack:
        judged = judged_networks(job, deployed, stack)
        agreement = prediction = accuracy = None
        if samples is not None:
            agreement, prediction = on_samples(job, judged, samples)
        if job.val is not None:
            accuracy = on_images(job, judged, baseline)
        warn_of_nothing(job, agreement, accuracy, labelled=baseline is not None)
        draw_answers(job, judged, samples)
        found = Verified(agreement, prediction, accuracy, in_part_float(job, judged, samples))
        stage.detail = ", ".join(in_words(found))
    if found.partly_float is not None:
        job.console.info(
            f"note: these are the figures of {INT8_ONNX}, all layers in INT8; "
            + in_part_float_words(deployed, found.partly_float)
        )
    return found


def in_part_float(job: Job, judged: Judged, samples: SampleSource | None) -> AgreementSection | None:
    """Agreement of FP32 and an engine with layers in float; None for one without."""
    inputs: Batches | None = job.val if samples is None else job.samples(samples, SampleUse.JUDGING)
    if judged.partly_float is None or inputs is None:
        return None
    x = first_inputs(inputs, ON_CPU).cpu()
    batches = TensorBatches(x, torch.zeros(len(x), dtype=torch.int64), job.batch)
    return agreement_section(
        job, compare(judged.fp32, judged.partly_float, judged.task, judged.names, batches)
    )


def in_part_float_words(deployed: Deployed, found: AgreementSection) -> str:
    """What the engine of ONNX Runtime is, and its agreement with FP32."""
    if deployed.is_fp32:
        return f"{CPU_ENGINE} is the FP32 network, which is faster here"
    return (
        f"those of {CPU_ENGINE}, with {len(deployed.in_float)} of them in float: {found.measure}: "
        f"{share(found.percent)} on {found.samples} of the inputs"
    )


def on_samples(job: Job, judged: Judged, samples: SampleSource) -> tuple[AgreementSection, Prediction | None]:
    """Agreement and prediction, on samples that nothing else has used."""
    count = judges_of(job.task, samples, job.options.calibration.samples)
    fresh = job.samples(samples, SampleUse.JUDGING, count)
    found = compare(judged.fp32, judged.int8, judged.task, judged.names, fresh)
    count = judges_of(job.task, samples, inputs_for(job.batch))
    unseen = border_inputs(samples, count, job.batch, job.seed + SampleUse.JUDGING)
    procedural = procedural_inputs(job.teacher.spec, job.batch, job.seed)
    prediction = predict(judged.fp32, judged.int8, judged.task, unseen, procedural)
    return agreement_section(job, found), prediction


def agreement_section(job: Job, found: Compared) -> AgreementSection:
    """The report's ``agreement``."""
    agreement, sqnr, cosine = found.agreement, found.errors.sqnr_db(), found.errors.cosine()
    return AgreementSection(
        synthetic_top1=agreement.percent if job.task.name == "classes" else None,
        samples=len(agreement.of),
        measure=job.task.measure,
        percent=None if found.nothing_found else agreement.percent,
        standard_error=None if found.nothing_found else agreement.standard_error,
        outputs=[OutputAgreement(name, finite(sqnr[name]), cosine[name]) for name in sqnr],
    )


def on_images(job: Job, judged: Judged, baseline: Answers | None) -> AccuracySection:
    """Agreement on ``--val``, and accuracy where FP32 gave ``baseline`` to labelled images."""
    assert job.val is not None
    task, metric = job.task, None
    before = after = None
    with job.console.progress("verify", job.val.num_samples) as advance:
        if baseline is None:
            found = compare(judged.fp32, judged.int8, judged.task, judged.names, job.val, advance)
            agreement, nothing = found.agreement, found.nothing_found
        else:
            quantized = answers(judged.int8, judged.task, job.val, baseline.truths, advance)
            quantized = replace(quantized, task=task)
            agreement, nothing = baseline.agreement(quantized), baseline.nothing_found
            metric = task.metric
            before, after = baseline.accuracy, quantized.accuracy
    top1 = metric == "top-1"
    return AccuracySection(
        images=job.val.num_samples,
        fp32_top1=before if top1 else None,
        fp32_by=fp32_by(job.device),
        int8_top1=after if top1 else None,
        agreement=None if nothing else agreement.percent,
        measure=task.measure,
        standard_error=None if nothing else agreement.standard_error,
        metric=metric,
        fp32=before,
        int8=after,
    )


def warn_of_nothing(
    job: Job, agreement: AgreementSection | None, accuracy: AccuracySection | None, *, labelled: bool
) -> None:
    """Say where FP32 finds no box that counts, so that the same of INT8 is no agreement."""
    if not isinstance(job.task, FoundBoxes):
        return
    by_agreement = job.options.max_drop is not None and not labelled
    says_nothing = " What --max-drop judged by agreement on these says nothing either."
    seen = []
    if agreement is not None and agreement.percent is None:
        advice = "Give some real images with such objects in them as --val; they need no labels."
        advice += says_nothing if by_agreement and job.val is None else ""
        seen.append((f"{agreement.samples} fresh samples", advice))
    if accuracy is not None and accuracy.agreement is None:
        advice = (
            "Check --resize, --crop, --mean and --std: images that are not prepared as in training hide what is on "
            "them. Else give images that show what the network finds."
        ) + (says_nothing if by_agreement else "")
        seen.append((f"{accuracy.images} images of --val", advice))
    for inputs, advice in seen:
        job.console.warn(
            WarningMessage(
                "nothing-found",
                f"FP32 finds no box with a score of {job.task.threshold:g} or more in any of {inputs}, so that INT8 "
                "agrees with it there would mean nothing and is not reported",
                advice,
            )
        )


def draw_answers(job: Job, judged: Judged, samples: SampleSource | None) -> None:
    """Write the picture of both networks' answers, where they can be drawn, to some images of ``--val`` or samples."""
    inputs: Batches | None = job.val
    if inputs is None and samples is not None:
        inputs = job.samples(samples, SampleUse.JUDGING)
    task = judged.task
    if inputs is None or not is_drawable(task):
        return
    seen = first_inputs(inputs, LOOKED_AT).cpu()
    before = [
        answer for part in seen.split(job.batch) for answer in task.answers(judged.fp32(array_of(part)))
    ]
    chosen = worth_showing(task, before)
    shown = seen[torch.tensor(chosen)]
    after = task.answers(judged.int8(array_of(shown)))
    path = job.workspace.path(ANSWERS)
    save_answers(shown, job.teacher.spec, task, [before[index] for index in chosen], after, path)


def in_words(found: Verified) -> list[str]:
    """The stage's line."""
    words = []
    if found.agreement is not None:
        agreement = found.agreement
        words.append(f"{agreement.measure}: {share(agreement.percent)} on {agreement.samples} fresh samples")
    if found.prediction is not None:
        words.append(str(found.prediction))
    if found.accuracy is not None:
        words.append(f"{share(found.accuracy.agreement)} on {found.accuracy.images} images of --val")
    return words
