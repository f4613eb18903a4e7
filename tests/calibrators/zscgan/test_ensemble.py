"""Generators together: who makes which sample."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sample_sheet import save_picture
from calibrators.zscgan.training import new_config

SPEC = InputSpec((3, 8, 8))


def ensemble_of(classes: int, options: ZSCGANOptions) -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(Generator(new_config(SPEC, classes, options)) for _ in range(options.generators)).eval()


def test_each_sample_is_made_by_its_generator() -> None:
    ensemble = ensemble_of(3, ZSCGANOptions(latent=8, width=4, generators=3))
    z, conditions = ensemble.draw(10, seed=0, place=0)
    with torch.no_grad():
        x = ensemble(z, conditions)
        for sample, latent, (number, label) in zip(x, z, conditions.tolist(), strict=True):
            alone = ensemble.members[number](latent[None], torch.tensor([label]))[0]
            torch.testing.assert_close(sample, alone, rtol=0, atol=1e-5)
    assert conditions.tolist() == ensemble.conditions().tolist() + ensemble.conditions()[:1].tolist()


def test_samples_come_evenly_from_all_generators_and_classes() -> None:
    ensemble = ensemble_of(5, ZSCGANOptions(latent=4, width=4))
    counts = torch.zeros(2, 5, dtype=torch.int64)
    for number, label in ensemble.draw(100, seed=0, place=7)[1].tolist():
        counts[number, label] += 1
    assert counts.unique().tolist() == [10]


@given(
    st.integers(1, 200), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40)
)
def test_shares(steps: int, generators: int, seed: int, classes: int, batch: int) -> None:
    options = ZSCGANOptions(steps=steps, generators=generators, seed=seed, samples_per_class=24)
    shares = options.shares(classes, batch)
    assert sum(share.steps for share in shares) == steps
    assert shares[0].seed == seed
    if len(shares) > 1:
        assert len({share.seed for share in shares}) == len(shares) == generators
        assert all(share.learns(classes, batch) for share in shares)
        assert min(share.steps for share in shares) >= options.least_steps
    elif generators > 1:
        assert steps < generators * options.least_steps or steps // generators * batch < 24 * classes


@pytest.mark.parametrize(
    ("classes", "steps", "batch", "generators"),
    [
        (10, 250, 64, 2),
        (100, 250, 64, 2),
        (200, 250, 64, 1),
        (1000, 250, 16, 1),
        (33, 250, 16, 2),
        (10, 120, 64, 2),
        (10, 119, 64, 1),
        (10, 1, 64, 1),
    ],
)
def test_one_generator_alone_where_two_would_have_too_few_steps(
    classes: int, steps: int, batch: int, generators: int
) -> None:
    assert len(ZSCGANOptions(steps=steps).shares(classes, batch)) == generators


def test_the_picture_shows_the_generators_in_turn(tmp_path: Path) -> None:
    ensemble = ensemble_of(2, ZSCGANOptions(latent=8, width=4))
    for member, shade in zip(ensemble.members, (-20.0, 20.0), strict=True):
        head = member.get_submodule("head")
        assert isinstance(head, torch.nn.Conv2d)
        torch.nn.init.zeros_(head.weight)
        assert head.bias is not None
        torch.nn.init.constant_(head.bias, shade)
    with Image.open(save_picture(ensemble, tmp_path / "samples.png", seed=0)) as picture:
        tiles = [picture.getpixel((20 + 68 * column, 40 + 68 * row)) for column in (0, 1) for row in range(4)]
    black, white = (0, 0, 0), (255, 255, 255)
    assert tiles == [black, white, black, white] * 2
