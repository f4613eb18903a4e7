"""Generators together: who makes which sample."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from calibrators.inputs import InputSpec
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.picture import ROWS, shown_conditions
from calibrators.zscgan.training import new_config

SPEC = InputSpec((3, 8, 8))


def ensemble_of(classes: int, options: ZSCGANOptions) -> Ensemble:
    torch.manual_seed(0)
    shares = enumerate(options.shares())
    return Ensemble(Generator(new_config(SPEC, classes, share, number)) for number, share in shares).eval()


def test_each_sample_is_made_by_its_generator() -> None:
    ensemble = ensemble_of(3, ZSCGANOptions(latent=8, width=4, generators=3))
    z, conditions = ensemble.draw(10, seed=0, place=0)
    with torch.no_grad():
        x = ensemble(z, conditions)
        for sample, latent, (number, label) in zip(x, z, conditions.tolist(), strict=True):
            alone = ensemble.generators[number](latent[None], torch.tensor([label]))[0]
            torch.testing.assert_close(sample, alone, rtol=0, atol=1e-5)
    assert conditions.tolist() == ensemble.conditions().tolist() + ensemble.conditions()[:1].tolist()


def test_samples_come_evenly_from_all_generators_and_classes() -> None:
    ensemble = ensemble_of(5, ZSCGANOptions(latent=4, width=4))
    counts = torch.zeros(2, 5, dtype=torch.int64)
    for number, label in ensemble.draw(100, seed=0, place=7)[1].tolist():
        counts[number, label] += 1
    assert counts.unique().tolist() == [10]


def test_generators_that_cannot_learn_all_classes_learn_different_ones() -> None:
    few = ZSCGANOptions(steps=60, batch=8, samples_per_class=24, latent=4, width=4)
    ensemble = ensemble_of(1000, few)
    first, second = ([*member.config.labels().tolist()] for member in ensemble.generators)
    assert len(first) == len(second) == 30 * 8 // 24
    assert ensemble.classes() == sorted(first + second)
    assert len(ensemble_of(15, few).classes()) == 15  # 10 of the first, 5 others and 5 again of the second


def test_a_column_of_the_picture_shows_every_generator_of_its_class() -> None:
    few = ZSCGANOptions(steps=60, batch=8, samples_per_class=24, latent=4, width=4)
    ensemble = ensemble_of(15, few)
    shown = shown_conditions(ensemble, ensemble.classes()).view(ROWS, 15, 2)
    assert (shown[:, :, 1] == torch.arange(15)).all()
    made = {tuple(pair) for pair in shown.flatten(0, 1).tolist()}
    assert made == {tuple(pair) for pair in ensemble.conditions().tolist()}


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_shares_add_up(steps: int, generators: int, seed: int) -> None:
    shares = ZSCGANOptions(steps=steps, generators=generators, seed=seed).shares()
    assert sum(share.steps for share in shares) == steps
    assert max(share.steps for share in shares) - min(share.steps for share in shares) <= 1
    assert len({share.seed for share in shares}) == len(shares) == min(steps, generators)
    assert shares[0].seed == seed
