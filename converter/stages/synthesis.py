"""The stage that makes samples: a generator trained, or its training taken up again after a stop."""

from pathlib import Path

import torch

from calibrators.distributed import ALONE, Ranks
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.resume import (
    SAVE_EVERY_S,
    checkpointing,
    restore_checkpoint,
    run_key,
    save_checkpoint,
)
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator
from calibrators.zscgan.successive import EnsembleState, new_ensemble, train_ensemble
from converter.console import Reporter
from converter.job import Inputs
from converter.load.model import Teacher
from converter.options import ConvertOptions
from converter.signals import InterruptAfterStep

KL_MEAN_STEPS = 20
CALIBRATING, CHOOSING, JUDGING = 0, 1, 2
"""Added to the seed. What chose a calibrator or the layers in float must not judge the result as well."""


def generator_from_teacher(
    teacher: Teacher,
    fingerprint: str,
    options: ZSCGANOptions,
    *,
    checkpoint: Path | None,
    device: torch.device,
    reporter: Reporter,
    ranks: Ranks = ALONE,
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
        reporter.say(
            f"note: {options.steps} steps can learn {learned} of the {teacher.classes} classes; the samples "
            "are of those (--gan-steps for more)"
        )
    if checkpoint is not None and restore_checkpoint(state, checkpoint, key):
        reporter.say(f"going on from step {state.step} of at most {options.steps}, saved by an earlier run")
    state = train(teacher, state, options, checkpoint, key, reporter, ranks)
    history = tuple((step.step, step.bn_kl, step.label) for step in state.history)
    return TrainedGenerator(state.ensemble, fingerprint, history, state.seconds)


def train(
    teacher: Teacher,
    state: EnsembleState,
    options: ZSCGANOptions,
    checkpoint: Path | None,
    key: str,
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> EnsembleState:
    """``train_ensemble`` with progress, checkpoints and a clean stop."""
    save_sometimes = checkpointing(checkpoint, key) if checkpoint is not None else nothing_to_save
    with InterruptAfterStep() as interrupt, reporter.progress("synthesis", options.steps) as advance:

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


def samples(
    trained: TrainedGenerator, inputs: Inputs, options: ConvertOptions, use: int = CALIBRATING
) -> SyntheticBatches:
    """The samples for one use; those for different uses have none in common."""
    seed = options.synthesis.seed + use
    return SyntheticBatches(trained.generator, options.calibration.samples, inputs.batch, seed)
