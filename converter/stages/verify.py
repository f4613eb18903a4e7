"""The stage that compares the engine with the FP32 network."""

from dataclasses import dataclass

from calibrators.zscgan.sampling import TrainedGenerator
from converter.job import Job, SampleUse
from converter.report.document import AccuracySection, AgreementSection
from converter.stages.build import Deployed
from converter.trust.fp32 import fp32_by, fp32_network
from converter.trust.prediction import Prediction, border_inputs, inputs_for, predict
from converter.trust.predictions import Logits, Predictions, any_batch, in_parts, predictions
from converter.workspace import FP32_ONNX
from zscgan_common.warning_message import WarningMessage


@dataclass(frozen=True)
class Verified:
    """What is known of the engine's answers; None where there was nothing to measure it on."""

    agreement: AgreementSection | None = None
    prediction: Prediction | None = None
    accuracy: AccuracySection | None = None


def verify(
    job: Job, deployed: Deployed, baseline: Predictions | None, generator: TrainedGenerator | None
) -> Verified:
    """Agreement of FP32 and INT8 on fresh samples, what is predicted from others, and accuracy on ``--val``."""
    if generator is None and job.val is None:
        job.console.warn(
            WarningMessage(
                "nothing-measured",
                "neither samples nor --val: how often INT8 agrees with FP32 was not measured",
                "Nothing is known of this conversion's accuracy. Convert again with --val and labelled images before "
                "you use it.",
            )
        )
        return Verified()
    fp32_onnx = job.workspace.path(FP32_ONNX)
    with (
        job.console.stage("verify") as stage,
        fp32_network(job.teacher.module, job.device, fp32_onnx) as fp32,
        deployed.open() as int8,
    ):
        run = any_batch(int8)
        if deployed.name != "onnxruntime":
            run = in_parts(run, job.options.build.min_batch, job.options.build.max_batch)
        found = Verified()
        if generator is not None:
            found = on_samples(job, fp32, run, generator)
        if baseline is not None:
            found = Verified(found.agreement, found.prediction, on_images(job, run, baseline))
        stage.detail = ", ".join(in_words(found))
    return found


def on_samples(job: Job, fp32: Logits, int8: Logits, generator: TrainedGenerator) -> Verified:
    """Agreement and prediction, on samples that nothing else has used."""
    fresh = job.samples(generator, SampleUse.JUDGING)
    agreement = predictions(fp32, fresh).agreement(predictions(int8, fresh))
    unseen = border_inputs(generator, inputs_for(job.batch), job.batch, job.seed + SampleUse.JUDGING)
    return Verified(AgreementSection(agreement, fresh.num_samples), predict(fp32, int8, unseen))


def on_images(job: Job, int8: Logits, baseline: Predictions) -> AccuracySection:
    """Accuracy on ``--val``, where FP32 gave ``baseline``."""
    assert job.val is not None
    with job.console.progress("verify", job.val.num_samples) as advance:
        quantized = predictions(int8, job.val, advance)
    return AccuracySection(
        images=job.val.num_samples,
        fp32_top1=baseline.top1,
        fp32_by=fp32_by(job.device),
        int8_top1=quantized.top1,
        agreement=baseline.agreement(quantized),
    )


def in_words(found: Verified) -> list[str]:
    """The stage's line."""
    words = []
    if found.agreement is not None:
        agreement = found.agreement
        words.append(f"{agreement.synthetic_top1:.2f} % agreement on {agreement.samples} fresh samples")
    if found.prediction is not None:
        words.append(str(found.prediction))
    if found.accuracy is not None:
        words.append(f"{found.accuracy.agreement:.2f} % on {found.accuracy.images} images of --val")
    return words
