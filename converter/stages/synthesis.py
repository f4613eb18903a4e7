"""The stage that makes samples: by a generator, trained or taken up again after a stop, or by a procedure."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from calibrators.data.batches import first_inputs
from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE, Ranks
from calibrators.zscgan.guidance import GUIDED, guide_for
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import SampleQuality, sample_quality
from calibrators.zscgan.resume import (
    SAVE_EVERY_S,
    checkpointing,
    restore_checkpoint,
    run_key,
    save_checkpoint,
)
from calibrators.zscgan.sample_sheet import save_picture, save_sheet, shown_classes
from calibrators.zscgan.sampling import TrainedGenerator, save_generator
from calibrators.zscgan.successive import EnsembleState, new_ensemble, train_ensemble
from converter.console import Console
from converter.graph.outputs import tensors_of
from converter.job import Job, most_guided
from converter.load.model import Teacher
from converter.report.document import SynthesisSection, TrainingStep
from converter.samples import GeneratorSamples, SampleSource, samples_of_kind
from converter.signals import InterruptAfterStep
from converter.trust.task.base import Task
from converter.workspace import SAMPLES
from zscgan_common.warning_message import WarningMessage

KL_MEAN_STEPS = 20
SHOWN = 60
"""Procedural images in the picture."""
STATISTICS = 128
"""Samples whose statistics are compared, where they have no labels that would need more."""
GOOD_LABELS = 80.0
"""Percent. Under this the classifier itself doesn't see in the samples what it was asked for."""
POOR_STATISTICS = 0.2
"""Nats of batch-norm KL. Trained generators are at 0.001 to 0.06, Gaussian noise at 0.5."""


@dataclass(frozen=True)
class Synthesised:
    """Samples and their section of the report; neither where real images or cached ranges take their place."""

    samples: SampleSource | None = None
    section: SynthesisSection | None = None


class LabelsOf(nn.Module):
    """``network`` as the generator sees it: logits of the labels that samples are made for.

    Of a task without labels they are one column of zeros, from which nothing is learned.
    """

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits = self.task.training_logits(tensors_of(self.network(x)))
        return x.new_zeros(len(x), 1) if logits is None else logits


def synthesise(job: Job) -> Synthesised:
    """Samples where they are needed, with their picture, and the generator's file, in the workspace."""
    if not job.needs_samples:
        return Synthesised()
    if job.procedural:
        return procedural(job)
    with job.console.stage("synthesis") as stage:
        trained = generator_for(job)
        assert trained is not None
        generated = generated_for(job, trained)
        inputs = job.samples(generated, count=looked_at(job, generated))
        with job.console.progress("samples", inputs.num_samples) as advance:
            quality = sample_quality(LabelsOf(job.teacher.module, job.task), inputs, advance)
        save_generator(trained, job.workspace.path("generator.pt"))
        save_picture(
            trained.generator,
            job.workspace.path(SAMPLES),
            seed=job.seed,
            class_names=class_names(job),
            guide=generated.guide,
        )
        stage.detail = f"{len(trained.history)} steps, batch-norm KL {quality.bn_kl:.4f}" + (
            f", {quality.label_accuracy:.1f} % of samples have their label" if has_labels(job.task) else ""
        )
        if generated.guide_steps:
            stage.detail += f"; guided to their classes in at most {generated.guide_steps} steps, "
            stage.detail += "as training was too short to learn all of them"
    warn_of_poor_samples(quality, job.task, job.teacher.spec, job.console, guided=generated.guide_steps > 0)
    return Synthesised(samples_from(job, generated), section_of(job, generated, quality))


def looked_at(job: Job, generated: GeneratorSamples) -> int:
    """How many of a generator's samples are looked at: where they have labels, all that calibrate."""
    if not has_labels(job.task):
        return min(STATISTICS, job.options.calibration.samples)
    calibrating = job.calibrating(generated)
    return calibrating - job.procedural_among(calibrating)


def generated_for(job: Job, trained: TrainedGenerator) -> GeneratorSamples:
    """The samples of ``trained`` for a conversion."""
    asked = job.options.asked_samples
    usual = most_guided(job.teacher.spec.shape, job.options.calibration.samples)
    calibrating = usual if asked is None else asked
    count = calibrating - job.procedural_among(calibrating)
    return generated_samples(job.teacher, job.task, trained, job.options.synthesis, count)


def generated_samples(
    teacher: Teacher, task: Task, trained: TrainedGenerator, options: ZSCGANOptions, count: int = GUIDED
) -> GeneratorSamples:
    """The samples of ``trained``, guided where it has not learned their labels: ``count`` of them to different ones."""
    network = LabelsOf(teacher.module, task)
    return GeneratorSamples(trained, guide_for(network, trained.generator, options, count))


def samples_from(job: Job, generated: GeneratorSamples | None) -> SampleSource:
    """The samples that the job takes: of a generator with labels its own, which procedural images join to calibrate."""
    kind = "generator" if job.sample_kind == "both" and has_labels(job.task) else job.sample_kind
    return samples_of_kind(kind, generated, job.teacher.spec, job.device)


def has_labels(task: Task) -> bool:
    """Whether samples are made for labels."""
    return task.classes > 1


def procedural(job: Job) -> Synthesised:
    """Procedural images, with their picture in the workspace."""
    with job.console.stage("synthesis") as stage:
        started = time.perf_counter()
        samples = samples_from(job, None)
        shown = first_inputs(samples.batches(SHOWN, SHOWN, job.seed), SHOWN)
        save_sheet(shown, job.teacher.spec, job.workspace.path(SAMPLES))
        stage.detail = "procedural images" + (
            "" if job.teacher.bn_layers else ": the network has no batch norm"
        )
    section = SynthesisSection(
        steps=0,
        seconds=round(time.perf_counter() - started, 3),
        bn_kl=None,
        label_accuracy=None,
        generators=0,
        classes=0,
        shown=[],
        reused=False,
        history=[],
        source="procedural",
        procedural=procedural_images(job, samples),
    )
    return Synthesised(samples, section)


def samples_for(job: Job) -> SampleSource | None:
    """Samples, where they are needed. Every rank but the first calls this."""
    if not job.needs_samples:
        return None
    trained = None if job.procedural else generator_for(job)
    if trained is None:
        return samples_from(job, None)
    return samples_from(job, generated_for(job, trained))


def generator_for(job: Job) -> TrainedGenerator | None:
    """A trained generator, where one is needed: that of the user, or a new one. Every rank calls this."""
    if job.generator is not None or not job.needs_samples:
        return job.generator
    return generator_from_teacher(
        job.teacher,
        job.task,
        job.fingerprint,
        job.options.synthesis,
        checkpoint=job.checkpoint(job.workspace.checkpoint),
        device=job.device,
        console=job.console,
        ranks=job.ranks,
    )


def generator_from_teacher(
    teacher: Teacher,
    task: Task,
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
    state = new_ensemble(teacher.spec, task.classes, options, device)
    key = run_key(fingerprint, teacher.spec, options)
    if checkpoint is not None and restore_checkpoint(state, checkpoint, key):
        console.info(f"going on from step {state.step} of at most {options.steps}, saved by an earlier run")
    state = train(teacher, task, state, options, checkpoint, key, console, ranks)
    history = tuple((step.step, step.bn_kl, step.label) for step in state.history)
    return TrainedGenerator(state.ensemble, fingerprint, history, state.seconds)


def train(
    teacher: Teacher,
    task: Task,
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
            LabelsOf(teacher.module, task),
            teacher.spec,
            task.classes,
            options,
            state=state,
            on_step=on_step,
            ranks=ranks,
        )
    if checkpoint is not None and state.seconds > SAVE_EVERY_S:  # worth keeping if a later stage fails
        save_checkpoint(state, checkpoint, key)
    return state


def nothing_to_save(_state: EnsembleState) -> None:
    """In place of a checkpoint on all ranks but the first."""


def warn_of_poor_samples(
    quality: SampleQuality, task: Task, spec: InputSpec, console: Console, *, guided: bool
) -> None:
    """Say where the samples are not what the network was trained with."""
    if not quality.bn_kl <= POOR_STATISTICS:
        console.warn(
            WarningMessage(
                "poor-statistics",
                f"the samples are far from the batch-norm statistics (KL {quality.bn_kl:.2f} nats, more than "
                f"{POOR_STATISTICS:g}), so their ranges are doubtful; check the normalisation first ("
                f"{spec.flags}), then give more --gan-steps, or real images (zscgan-convert --calib-data)",
                "The network does not see its training data in these samples, so INT8 may clip values or waste its "
                "range. A normalisation that isn't that of the training is the usual reason (--preset, --mean and "
                "--std). Else train longer with --gan-steps, or calibrate with some hundred real images "
                "(--calib-data); measure with --val.",
            )
        )
    if has_labels(task) and quality.label_accuracy < GOOD_LABELS:
        console.warn(
            WarningMessage(
                "poor-labels",
                f"only {quality.label_accuracy:.1f} % of the samples are classified as their intended class; "
                f"increase {'--guide-steps' if guided else '--gan-steps'}",
                "Ranges follow the statistics and need no labels. If the accuracy with --val is not enough, give more "
                "steps or calibrate with real images (--calib-data).",
            )
        )


def class_names(job: Job) -> tuple[str, ...] | None:
    """A name for each class, where all are known."""
    names = job.teacher.class_names
    return names if names is not None and len(names) == job.task.classes else None


def section_of(job: Job, generated: GeneratorSamples, quality: SampleQuality) -> SynthesisSection:
    """The report's ``synthesis``."""
    names, trained = class_names(job), generated.trained
    return SynthesisSection(
        steps=len(trained.history),
        seconds=round(trained.seconds, 3),
        bn_kl=quality.bn_kl,
        label_accuracy=quality.label_accuracy if has_labels(job.task) else None,
        generators=len(trained.generator.members),
        classes=trained.generator.config.classes,
        guide_steps=generated.guide_steps,
        shown=[]
        if not has_labels(job.task)
        else [
            {"class": label, "name": names[label] if names else None}
            for label in shown_classes(trained.generator, job.seed, generated.guide)
        ],
        reused=job.options.generator is not None,
        history=[TrainingStep(step, kl, label) for step, kl, label in trained.history],
        procedural=procedural_images(job, generated),
    )


def procedural_images(job: Job, samples: SampleSource) -> int:
    """How many of the inputs that calibrate are procedural images."""
    return 0 if job.cached is not None else job.procedural_among(job.calibrating(samples))
