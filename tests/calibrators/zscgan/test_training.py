import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from calibrators.data.input_spec import InputSpec
from calibrators.errors import GeneratorError
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.losses import pixel_loss
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import sample_quality
from calibrators.zscgan.resume import restore_checkpoint, run_key, save_checkpoint
from calibrators.zscgan.sampling import SyntheticBatches
from calibrators.zscgan.training import (
    TrainingState,
    draw,
    new_config,
    new_state,
    train_generator,
)

OPTIONS = ZSCGANOptions(steps=6, batch=8, latent=8, width=8, samples_per_class=1, least_steps=1)
CPU = torch.device("cpu")


def fresh(spec: InputSpec, options: ZSCGANOptions) -> TrainingState:
    return new_state(new_config(spec, 4, options), options, CPU)


@pytest.mark.slow
def test_training_brings_the_samples_nearer(teacher: nn.Module, spec: InputSpec) -> None:
    options = replace(OPTIONS, steps=80, batch=32, bn_weight=10.0)
    before = fresh(spec, options).generator
    after = train_generator(teacher, spec, 4, options).generator
    was, now = (
        sample_quality(teacher, SyntheticBatches(Ensemble([generator]), 128, 32, seed=5))
        for generator in (before, after)
    )
    assert now.bn_kl < was.bn_kl / 2
    assert now.label_accuracy > max(50.0, was.label_accuracy)


@pytest.mark.slow
def test_the_prior_makes_smoother_samples(teacher: nn.Module, spec: InputSpec) -> None:
    def prior_with(weight: float) -> float:
        options = replace(OPTIONS, steps=40, batch=32, prior_weight=weight)
        generator = train_generator(teacher, spec, 4, options).generator
        x = torch.cat([x for x, _ in SyntheticBatches(Ensemble([generator]), 128, 32, seed=5)])
        return pixel_loss((x - generator.low) / generator.span, generator.mean, 0.0, 1.0).item()

    assert prior_with(200.0) < 0.8 * prior_with(0.0)


def test_the_teacher_is_left_as_it_was(teacher: nn.Module, spec: InputSpec) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train_generator(teacher, spec, 4, OPTIONS)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_same_seed_same_bits_other_seed_others(teacher: nn.Module, spec: InputSpec) -> None:
    torch.manual_seed(1)
    one = train_generator(teacher, spec, 4, OPTIONS).generator.state_dict()
    torch.manual_seed(2)  # the global random state must not matter
    two = train_generator(teacher, spec, 4, OPTIONS).generator.state_dict()
    other = train_generator(teacher, spec, 4, replace(OPTIONS, seed=1)).generator.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_run_goes_on_to_the_same_bits(teacher: nn.Module, spec: InputSpec, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop_at_three(state: TrainingState) -> None:
        if state.step == 3:
            save_checkpoint(state, tmp_path / "ckpt", "key")
            raise StopError

    with pytest.raises(StopError):
        train_generator(teacher, spec, 4, OPTIONS, on_step=stop_at_three)
    state = fresh(spec, OPTIONS)
    assert restore_checkpoint(state, tmp_path / "ckpt", "key")
    assert state.step == 3
    resumed = train_generator(teacher, spec, 4, OPTIONS, state=state)
    whole = train_generator(teacher, spec, 4, OPTIONS)
    assert resumed.history == whole.history
    theirs = whole.generator.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.generator.state_dict().items())


@pytest.mark.parametrize("place", [0, 40, 700, -1000, -1])
def test_a_damaged_checkpoint_is_left_aside(place: int, spec: InputSpec, tmp_path: Path) -> None:
    state = fresh(spec, OPTIONS)
    content = bytearray(save_checkpoint(state, tmp_path / "ckpt", "key").read_bytes())
    content[place] ^= 1
    (tmp_path / "ckpt").write_bytes(content)
    assert not restore_checkpoint(state, tmp_path / "ckpt", "key")


def test_a_checkpoint_of_another_run_is_left_aside(spec: InputSpec, tmp_path: Path) -> None:
    state = fresh(spec, OPTIONS)
    save_checkpoint(state, tmp_path / "ckpt", run_key("weights", spec, OPTIONS))
    assert not restore_checkpoint(
        state, tmp_path / "ckpt", run_key("weights", spec, replace(OPTIONS, seed=1))
    )
    assert not restore_checkpoint(state, tmp_path / "ckpt", run_key("others", spec, OPTIONS))
    assert not restore_checkpoint(state, tmp_path / "none", "key")
    (tmp_path / "ckpt").write_bytes(b"half a file")
    assert not restore_checkpoint(state, tmp_path / "ckpt", "key")


def test_broken_statistics_end_in_an_error(teacher: nn.Module, spec: InputSpec) -> None:
    layer = teacher.get_submodule("1")
    layer.running_mean.fill_(math.nan)
    with pytest.raises(GeneratorError, match="--calib-data"):
        train_generator(teacher, spec, 4, replace(OPTIONS, steps=30))


def test_a_variance_of_almost_nothing_trains(teacher: nn.Module, spec: InputSpec) -> None:
    layer = teacher.get_submodule("1")
    layer.running_var[0] = 1e-26
    state = train_generator(teacher, spec, 4, OPTIONS)
    assert all(math.isfinite(step.bn_kl) for step in state.history)


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_draw_covers_the_classes_evenly(classes: int) -> None:
    labels = torch.cat(
        [draw(torch.arange(classes), 4, 8, 0, step, CPU)[1] for step in range(max(1, classes // 4))]
    )
    counts = labels.bincount(minlength=classes)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("classes", "steps", "batch", "learned"),
    [
        (1, 1, 60, True),
        (1, 1, 8, True),
        (10, 60, 64, True),
        (16, 60, 16, True),
        (17, 60, 16, False),
        (1000, 3750, 16, True),
    ],
)
def test_classes_are_learned_by_enough_samples(classes: int, steps: int, batch: int, learned: bool) -> None:
    assert ZSCGANOptions(steps=steps).learns(classes, batch) == learned


@pytest.mark.parametrize(("world", "batch"), [(1, 8), (2, 8), (4, 8), (3, 16), (8, 16)])
def test_large_inputs_take_small_batches_that_the_ranks_can_share_where_no_labels_are_trained(
    world: int, batch: int
) -> None:
    options = ZSCGANOptions()
    assert options.batch_for(224, 224) == 16
    for labels, side, expected in (
        (1, 224, batch),
        (2, 224, 16),
        (1000, 224, batch),
        (1, 32, 64),
        (1, 112, 16),
    ):
        assert options.for_labels(labels, side, side, world).batch_for(side, side) == expected
    assert options.for_labels(40, 32, 32, world) == options  # they are learned
    assert ZSCGANOptions(batch=12).for_labels(1, 224, 224, world).batch_for(224, 224) == 12


def test_a_network_without_labels_takes_one_generator() -> None:
    options = ZSCGANOptions()
    assert [options.for_labels(labels, 32, 32).generators for labels in (1, 2, 10, 1000)] == [1, 2, 2, 1]
    assert [options.batch_for(48, width) for width in (64, 128, 192, 256)] == [64, 32, 32, 16]


def test_draws_differ_by_step_and_seed() -> None:
    z = [draw(torch.arange(4), 4, 8, seed, step, CPU)[0] for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(z[0], z[1])
    assert not torch.equal(z[0], z[2])


@pytest.mark.parametrize("generators", [0, 17])
def test_a_number_of_generators_that_have_no_seeds(generators: int) -> None:
    assert (
        len({share.seed for share in ZSCGANOptions(steps=16, generators=16, least_steps=1).shares(1, 64)})
        == 16
    )
    with pytest.raises(ValueError, match=f"between 1 and 16 generators, got generators={generators}"):
        ZSCGANOptions(generators=generators)


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("batch", 1), ("batch", -3), ("seed", -1)])
def test_wrong_options_name_the_flag(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=r"--(gan-steps|gan-batch|seed)"):
        ZSCGANOptions(**{field: value})
