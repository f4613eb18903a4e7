"""The stage that measures FP32 on ``--val``: before the long work, in case an image is broken."""

from converter.job import Job
from converter.stages.head import head_file
from converter.trust.answers import Answers, answers
from converter.trust.fp32 import fp32_by, fp32_network
from converter.workspace import FP32_ONNX
from zscgan_common.warning_message import WarningMessage


def fp32_baseline(job: Job) -> Answers | None:
    """What the FP32 network says to the labelled images of ``--val``; None without labels."""
    task = job.task
    truths = job.true_answers
    if job.val is None or truths is None:
        return None
    with (
        job.console.stage("baseline") as stage,
        head_file(job, FP32_ONNX) as path,
        fp32_network(job.teacher.module, job.device, path) as network,
    ):
        with job.console.progress("baseline", job.val.num_samples) as advance:
            baseline = answers(network, task, job.val, truths, advance)
        count, by = job.val.num_samples, fp32_by(job.device)
        stage.detail = f"FP32 {task.metric} {baseline.accuracy:.2f} % on {count} images, by {by}"
    chance, guessed = (
        (100.0 / task.classes, ", hardly more than chance") if task.name == "classes" else (0.0, "")
    )
    if baseline.accuracy < chance + (100.0 - chance) / 10:
        job.console.warn(
            WarningMessage(
                "fp32-near-chance",
                f"the FP32 network's {task.metric} on --val is only {baseline.accuracy:.1f} %{guessed}; check --mean, "
                "--std, --resize, --crop and the order of the classes",
                "No accuracy on this page means anything until that is fixed: the images are not prepared as in "
                "training, or the classes are in another order.",
            )
        )
    return baseline
