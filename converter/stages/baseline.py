"""The stage that measures FP32 on ``--val``: before the long work, in case an image is broken."""

from converter.job import Job
from converter.trust.fp32 import fp32_by, fp32_network
from converter.trust.predictions import Predictions, predictions
from converter.workspace import FP32_ONNX
from zscgan_common.warning_message import WarningMessage


def fp32_baseline(job: Job) -> Predictions | None:
    """What the FP32 network says to the images of ``--val``; None without them."""
    if job.val is None:
        return None
    fp32 = fp32_network(job.teacher.module, job.device, job.workspace.path(FP32_ONNX))
    with job.console.stage("baseline") as stage, fp32 as network:
        with job.console.progress("baseline", job.val.num_samples) as advance:
            baseline = predictions(network, job.val, advance)
        count, by = job.val.num_samples, fp32_by(job.device)
        stage.detail = f"FP32 top-1 {baseline.top1:.2f} % on {count} images, by {by}"
    chance = 100.0 / max(2, job.teacher.classes)
    if baseline.top1 < chance + (100.0 - chance) / 10:
        job.console.warn(
            WarningMessage(
                "fp32-near-chance",
                f"the FP32 network is right on only {baseline.top1:.1f} % of --val, hardly more than chance; check "
                "--mean, --std, --resize, --crop and the order of the labels",
                "No accuracy on this page means anything until that is fixed: the images are not prepared as in "
                "training, or the labels are in another order.",
            )
        )
    return baseline
