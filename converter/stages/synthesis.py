"""The stage that makes samples: a generator trained, or its training taken up again after a stop."""

from dataclasses import dataclass
from pathlib import Path

import torch

from calibrators.distributed import SINGLE, Ranks
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import SampleQuality, sample_quality
from calibrators.zscgan.resume import (
    SAVE_EVERY_S,
    checkpointing,
    restore_checkpoint,
    run_key,
    save_checkpoint,
)
from calibrators.zscgan.sample_sheet import save_picture, shown_classes
from calibrators.zscgan.sampling import TrainedGenerator, save_generator
from calibrators.zscgan.successive import EnsembleState, new_ensemble, train_ensemble
from converter.console import Console
from converter.job import Job
from converter.load.model import Teacher
from converter.report.document import SynthesisSection, TrainingStep
from converter.signals import InterruptAfterStep
from converter.workspace import SAMPLES
from zscgan_common.warning_message import WarningMessage

KL_MEAN_STEPS = 20
GOOD_LABELS = 80.0
"""Percent. Under this the classifier itself doesn't see in the samples what it was asked for."""
POOR_STATISTICS = 0.2
"""Nats of batch-norm KL. Trained generators are at 0.001 to 0.06, Gaussian noise at 0.5."""


@dataclass(frozen=True)
class Synthesised:
    """A trained generator and its section of the report; neither where real images or cached ranges take its place."""

    generator: TrainedGenerator | None = None
    section: SynthesisSection | None = None


def synthesise(job: Job) -> Synthesised:
    """A trained generator where one is needed, with its file and its picture in the workspace."""
    if not job.needs_generator:
        return Synthesised()
    with job.console.stage("synthesis") as stage:
        trained = generator_for(job)
        assert trained is not None
        quality = sample_quality(job.teacher.module, job.samples(trained))
        save_generator(trained, job.workspace.path("generator.pt"))
        save_picture(
            trained.generator,
            job.workspace.path(SAMPLES),
            seed=job.seed,
            class_names=job.teacher.class_names,
        )
        stage.detail = (
            f"{len(trained.history)} steps, batch-norm KL {quality.bn_kl:.4f}, "
            f"{quality.label_accuracy:.1f} % of samples have their label"
        )
    warn_of_poor_samples(job, quality)
    return Synthesised(trained, section_of(job, trained, quality))


def generator_for(job: Job) -> TrainedGenerator | None:
    """A trained generator, where one is needed: that of the user, or a new one. Every rank calls this."""
    if job.generator is not None or not job.needs_generator:
        return job.generator
    return generator_from_teacher(
        job.teacher,
        job.fingerprint,
        job.options.synthesis,
        checkpoint=job.checkpoint(job.workspace.checkpoint),
        device=job.device,
        console=job.console,
        ranks=job.ranks,
    )


def generator_from_teacher(
    teacher: Teacher,
    fingerprint: str,
    options: ZSCGANOptions,
    *,
    checkpoint: Path | None,
    device: torch.device,
    console: Console,
    ranks: Ranks = SINGLE,
) -> TrainedGenerator:
    """A trained generator for ``teacher``.

    Training saves its state to ``checkpoint`` from time to time and when it is interrupted, and goes on from
    there if the file belongs to the same run; of several ``ranks`` the first has the file, the others None.
    Raises KeyboardInterrupt, on all ranks, after the step in which a signal came.
    """
    state = new_ensemble(teacher.spec, teacher.classes, options, device)
    key = run_key(fingerprint, teacher.spec, options)
    learned = state.ensemble.config.conditions
    if learned < teacher.classes:
        console.info(
            f"note: {options.steps} steps can learn {learned} of the {teacher.classes} classes; the samples "
            "are of those (--gan-steps for more)"
        )
    if checkpoint is not None and restore_checkpoint(state, checkpoint, key):
        console.info(f"going on from step {state.step} of at most {options.steps}, saved by an earlier run")
    state = train(teacher, state, options, checkpoint, key, console, ranks)
    history = tuple((step.step, step.bn_kl, step.label) for step in state.history)
    return TrainedGenerator(state.ensemble, fingerprint, history, state.seconds)


def train(
    teacher: Teacher,
    state: EnsembleState,
    options: ZSCGANOptions,
    checkpoint: Path | None,
    key: str,
    console: Console,
    ranks: Ranks = SINGLE,
) -> EnsembleState:
    """``train_ensemble`` with progress, checkpoints and a clean stop."""
    save_sometimes = checkpointing(checkpoint, key) if checkpoint is not None else nothing_to_save
    with InterruptAfterStep() as interrupt, console.progress("synthesis", options.steps) as advance:

        def on_step(state: EnsembleState) -> None:
            recent = state.newest.history[-KL_MEAN_STEPS:]
            advance(state.step, f"BN KL {sum(step.bn_kl for step in recent) / len(recent):.4f}")
            # Together: a rank that stopped alone would leave the others waiting.
            if ranks.any(interrupt.requested):
                if checkpoint is not None:
                    save_checkpoint(state, checkpoint, key)
                raise KeyboardInterrupt
            save_sometimes(state)

        state = train_ensemble(
            teacher.module, teacher.spec, teacher.classes, options, state=state, on_step=on_step, ranks=ranks
        )
    if checkpoint is not None and state.seconds > SAVE_EVERY_S:  # worth keeping if a later stage fails
        save_checkpoint(state, checkpoint, key)
    return state


def nothing_to_save(_state: EnsembleState) -> None:
    """In place of a checkpoint on all ranks but the first."""


def warn_of_poor_samples(job: Job, quality: SampleQuality) -> None:
    """Say where the samples are not what the network was trained with."""
    if not quality.bn_kl <= POOR_STATISTICS:
        job.console.warn(
            WarningMessage(
                "poor-statistics",
                f"the samples are far from the batch-norm statistics (KL {quality.bn_kl:.2f} nats, more than "
                f"{POOR_STATISTICS:g}), so their ranges are doubtful; give more --gan-steps, or real images with "
                "--calib-data",
                "The network does not see its training data in these samples, so INT8 may clip values or waste its "
                "range. Train longer with --gan-steps, or calibrate with some hundred real images (--calib-data); "
                "measure with --val.",
            )
        )
    if quality.label_accuracy < GOOD_LABELS:
        job.console.warn(
            WarningMessage(
                "poor-labels",
                f"the classifier gives the wanted label to only {quality.label_accuracy:.1f} % of the samples; "
                "more --gan-steps make better ones",
                "Usual with many classes: ranges follow the statistics and need no labels. If the accuracy with "
                "--val is not enough, train longer with --gan-steps or calibrate with real images (--calib-data).",
            )
        )


def section_of(job: Job, trained: TrainedGenerator, quality: SampleQuality) -> SynthesisSection:
    """The report's ``synthesis``."""
    names = job.teacher.class_names
    return SynthesisSection(
        steps=len(trained.history),
        seconds=round(trained.seconds, 3),
        bn_kl=quality.bn_kl,
        label_accuracy=quality.label_accuracy,
        generators=len(trained.generator.members),
        classes=trained.generator.config.conditions,
        shown=[
            {"class": label, "name": names[label] if names else None}
            for label in shown_classes(trained.generator)
        ],
        reused=job.options.generator is not None,
        history=[TrainingStep(step, kl, label) for step, kl, label in trained.history],
    )
