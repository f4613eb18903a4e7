"""Scenes of dead leaves: shapes worked out by hand, occlusion, and the spectrum of the background."""

import numpy as np
import pytest

from calibrators.data import dead_leaves
from calibrators.data.dead_leaves import random_scene

DISC, BOX, DIAMOND = range(3)


def leaf(kind: int, **changes: float) -> dead_leaves._Leaf:
    """One of radius 4 at the centre of an image of 17x17, flat and sharp."""
    plain = dead_leaves._Leaf(8, 8, 4, 4, 1, 0, 1e-3, 6, 6, kind, 0, 0, 0)
    return plain._replace(**changes)


def painted(*leaves: dead_leaves._Leaf) -> np.ndarray:
    scene, texture = np.zeros((1, 17, 17), np.float32), np.ones((17, 17), np.float32)
    for number, one in enumerate(leaves, 1):
        dead_leaves._paint(scene, texture, one, np.full((1, 1, 1), number, np.float32))
    return scene[0]


def inside(kind: int) -> np.ndarray:
    y, x = np.abs(np.mgrid[-8:9, -8:9])
    return {DISC: np.hypot(y, x), BOX: np.maximum(y, x), DIAMOND: y + x}[kind]


@pytest.mark.parametrize("kind", [DISC, BOX, DIAMOND])
def test_a_leaf_covers_its_shape_alone(kind: int) -> None:
    found, distance = painted(leaf(kind)), inside(kind)
    assert (found[distance < 4] == 1).all()
    assert (found[distance > 4] == 0).all()


def test_a_later_leaf_hides_an_earlier_one() -> None:
    found = painted(leaf(BOX), leaf(DISC, long=2, short=2))
    assert found[8, 8] == 2
    assert found[8, 11] == 1


def test_a_turned_stroke_is_long_and_thin() -> None:
    found = painted(leaf(BOX, long=7, short=1, cos=0, sin=1, reach_y=8, reach_x=2))
    assert (found[2:15, 8] == 1).all()
    assert found[:, :7].sum() == found[:, 10:].sum() == 0


def test_an_edge_as_wide_as_two_pixels_is_half_covered_in_its_middle() -> None:
    found = painted(leaf(DISC, edge=2))
    np.testing.assert_allclose(found[8, [10, 11, 12, 13]], [1, 1, 0.5, 0], atol=1e-6)


def test_shading_and_texture_are_added_to_the_colour() -> None:
    found = painted(leaf(BOX, shade_x=0.5, texture=3))
    np.testing.assert_allclose(found[8, 6:11], 1 + 3 + 0.5 * np.arange(-2, 3), atol=1e-6)


def test_the_part_outside_is_cut_off() -> None:
    assert painted(leaf(DISC, x=-2, y=8))[8, :4].tolist() == [1, 1, 0.5, 0]
    assert painted(leaf(DISC, x=100)).sum() == 0


@pytest.mark.parametrize("slope", [1.0, 1.5])
def test_fields_have_the_spectrum_that_was_asked_for(slope: float) -> None:
    random = np.random.default_rng(0)
    fields = np.concatenate([dead_leaves._fields(random, 64, 64, slope) for _ in range(32)])
    assert fields.std(axis=(1, 2)) == pytest.approx(1, abs=1e-4)
    amplitude = np.sqrt((np.abs(np.fft.rfft2(fields)) ** 2).mean(axis=0))
    frequency = dead_leaves._frequencies(64, 64)
    part = np.isfinite(frequency)
    found = np.polyfit(np.log(frequency[part]), np.log(amplitude[part]), 1)[0]
    assert found == pytest.approx(-slope, abs=0.1)


def test_leaves_have_sizes_of_the_given_density() -> None:
    made = dead_leaves._leaves(np.random.default_rng(0), 20_000, 500, 700, drawn=False)
    sizes = np.array([one.long for one in made])
    low, high = 500 * np.array(dead_leaves.RADII)
    assert low <= sizes.min()
    assert sizes.max() <= high
    below = (low**-0.5 - 100**-0.5) / (low**-0.5 - high**-0.5)  # of a density r ** -1.5
    assert (sizes < 100).mean() == pytest.approx(below, abs=0.01)


def test_symmetric_scenes_are_mirrored_also_at_odd_widths() -> None:
    scenes = [random_scene(np.random.default_rng(seed), 3, 9, 11) for seed in range(40)]
    mirrored = [np.array_equal(scene[:, :, :5], scene[:, :, :5:-1]) for scene in scenes]
    assert 5 < sum(mirrored) < 30
