"""Training several generators: each is the one that it would be alone, and a stop anywhere changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import sample_quality
from calibrators.zscgan.resume import restore_checkpoint, save_checkpoint
from calibrators.zscgan.sampling import SyntheticBatches
from calibrators.zscgan.successive import EnsembleState, new_ensemble, train_ensemble
from calibrators.zscgan.training import train_generator

OPTIONS = ZSCGANOptions(steps=7, batch=8, latent=8, width=8, samples_per_class=1, least_steps=1)
CPU = torch.device("cpu")


def equal(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_each_is_trained_as_it_would_be_alone(teacher: nn.Module, spec: InputSpec) -> None:
    state = train_ensemble(teacher, spec, 4, OPTIONS)
    for member, share in zip(state.members, OPTIONS.shares(4, OPTIONS.batch), strict=True):
        alone = train_generator(teacher, spec, 4, share)
        assert equal(member.generator, alone.generator)
        assert member.history == alone.history
    assert not equal(state.members[0].generator, state.members[1].generator)


def test_steps_and_losses_are_those_of_all(teacher: nn.Module, spec: InputSpec) -> None:
    seen: list[tuple[int, int]] = []
    state = train_ensemble(teacher, spec, 4, OPTIONS, on_step=lambda s: seen.append((s.step, s.newest.step)))
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2), (6, 3), (7, 4)]
    assert [step.step for step in state.history] == list(range(7))
    assert [step.bn_kl for step in state.history] == [s.bn_kl for m in state.members for s in m.history]
    assert state.seconds == sum(member.seconds for member in state.members) > 0


@pytest.mark.parametrize("at", [2, 3, 6], ids=["in the first", "between", "in the second"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    at: int, teacher: nn.Module, spec: InputSpec, tmp_path: Path
) -> None:
    class StopError(Exception):
        pass

    def stop(state: EnsembleState) -> None:
        if state.step == at:
            save_checkpoint(state, tmp_path / "ckpt", "key")
            raise StopError

    with pytest.raises(StopError):
        train_ensemble(teacher, spec, 4, OPTIONS, on_step=stop)
    state = new_ensemble(spec, 4, OPTIONS, CPU)
    assert restore_checkpoint(state, tmp_path / "ckpt", "key")
    assert state.step == at
    resumed, whole = (train_ensemble(teacher, spec, 4, OPTIONS, state=s) for s in (state, None))
    assert resumed.history == whole.history
    assert equal(resumed.ensemble, whole.ensemble)


@pytest.mark.slow
def test_the_samples_of_all_are_near_the_statistics(teacher: nn.Module, spec: InputSpec) -> None:
    options = replace(OPTIONS, steps=160, batch=32, bn_weight=10.0)
    before = new_ensemble(spec, 4, options, CPU).ensemble
    after = train_ensemble(teacher, spec, 4, options).ensemble
    was, now = (
        sample_quality(teacher, SyntheticBatches(ensemble, 128, 32, seed=5)) for ensemble in (before, after)
    )
    assert now.bn_kl < was.bn_kl / 2
    assert now.label_accuracy > max(50.0, was.label_accuracy)
