"""The stage that compares the engine with the FP32 network."""

from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from calibrators.data.batches import Batches, first_inputs
from converter.job import Job, SampleUse
from converter.report.answer_sheet import is_drawable, save_answers, worth_showing
from converter.report.document import AccuracySection, AgreementSection, OutputAgreement
from converter.samples import SampleSource
from converter.stages.build import Deployed
from converter.stages.judged import Judged, judged_networks
from converter.stages.sensitivity import finite
from converter.trust.answers import Answers, Compared, answers, array_of, compare
from converter.trust.fp32 import fp32_by
from converter.trust.prediction import Prediction, border_inputs, inputs_for, predict
from converter.trust.task.base import Agreement
from converter.workspace import ANSWERS
from zscgan_common.warning_message import WarningMessage

LOOKED_AT = 32
"""Inputs among which those for the picture are chosen."""


@dataclass(frozen=True)
class Verified:
    """What is known of the engine's answers; None where there was nothing to measure it on."""

    agreement: AgreementSection | None = None
    prediction: Prediction | None = None
    accuracy: AccuracySection | None = None


def verify(job: Job, deployed: Deployed, baseline: Answers | None, samples: SampleSource | None) -> Verified:
    """Agreement of FP32 and INT8 on fresh samples, what is predicted from others, and accuracy on ``--val``."""
    if samples is None and job.val is None:
        job.console.warn(
            WarningMessage(
                "nothing-measured",
                "neither samples nor --val: how often INT8 agrees with FP32 was not measured",
                "Nothing is known of this conversion's accuracy. Convert again with --val and labelled images before "
                "you use it.",
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
        draw_answers(job, judged, samples)
        found = Verified(agreement, prediction, accuracy)
        stage.detail = ", ".join(in_words(found))
    return found


def on_samples(job: Job, judged: Judged, samples: SampleSource) -> tuple[AgreementSection, Prediction | None]:
    """Agreement and prediction, on samples that nothing else has used."""
    fresh = job.samples(samples, SampleUse.JUDGING)
    found = compare(judged.fp32, judged.int8, judged.task, judged.names, fresh)
    unseen = border_inputs(samples, inputs_for(job.batch), job.batch, job.seed + SampleUse.JUDGING)
    warn_of_nothing(job, found.agreement, "the samples")
    return agreement_section(job, found), predict(judged.fp32, judged.int8, judged.task, unseen)


def agreement_section(job: Job, found: Compared) -> AgreementSection:
    """The report's ``agreement``."""
    agreement, sqnr, cosine = found.agreement, found.errors.sqnr_db(), found.errors.cosine()
    return AgreementSection(
        synthetic_top1=agreement.percent if job.task.name == "classes" else None,
        samples=len(agreement.of),
        measure=job.task.measure,
        percent=agreement.percent,
        standard_error=agreement.standard_error,
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
            agreement = found.agreement
        else:
            quantized = answers(judged.int8, judged.task, job.val, baseline.truths, advance)
            quantized = replace(quantized, task=task)
            agreement, metric = baseline.agreement(quantized), task.metric
            before, after = baseline.accuracy, quantized.accuracy
    warn_of_nothing(job, agreement, "--val")
    top1 = metric == "top-1"
    return AccuracySection(
        images=job.val.num_samples,
        fp32_top1=before if top1 else None,
        fp32_by=fp32_by(job.device),
        int8_top1=after if top1 else None,
        agreement=agreement.percent,
        measure=task.measure,
        standard_error=agreement.standard_error,
        metric=metric,
        fp32=before,
        int8=after,
    )


def warn_of_nothing(job: Job, agreement: Agreement, where: str) -> None:
    """Say so where both networks agree for want of anything to agree on."""
    if float(agreement.of.sum()) == 0:
        job.console.warn(
            WarningMessage(
                "nothing-found",
                f"neither FP32 nor INT8 finds anything on {where} ({job.task.describe()}), so that they agree there "
                "says nothing",
                "The agreement of 100 % counts no answer at all. Check --mean and --std, and measure on images that "
                "show what the network finds: --val DIR.",
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
        words.append(f"{agreement.measure}: {agreement.percent:.2f} % on {agreement.samples} fresh samples")
    if found.prediction is not None:
        words.append(str(found.prediction))
    if found.accuracy is not None:
        words.append(f"{found.accuracy.agreement:.2f} % on {found.accuracy.images} images of --val")
    return words
