import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrators.ranges.scales import (
    DEAD_AMAX,
    MAX_AMAX,
    MIN_AMAX,
    amax_from_scale,
    is_valid_amax,
    scale_from_amax,
)


def test_scale_of_127_is_1() -> None:
    assert scale_from_amax(127.0) == 1.0
    assert amax_from_scale(1.0) == 127.0


@given(st.floats(min_value=2.0**-126, max_value=2.0**120, width=32))
def test_a_scale_survives_the_way_to_amax_and_back(scale: float) -> None:
    assert scale_from_amax(amax_from_scale(scale)) == scale


@pytest.mark.parametrize("amax", [MIN_AMAX, DEAD_AMAX, MAX_AMAX])
def test_every_valid_amax_has_a_normal_scale_with_a_finite_reciprocal(amax: float) -> None:
    scale = np.float32(scale_from_amax(amax))
    assert scale >= np.finfo(np.float32).tiny
    assert np.isfinite(np.float32(1) / scale)


@pytest.mark.parametrize("amax", [0.0, -1.0, math.nan, math.inf, MIN_AMAX / 2, 2 * MAX_AMAX])
def test_other_amax_are_refused(amax: float) -> None:
    assert not is_valid_amax(amax)
    with pytest.raises(ValueError, match="expected amax between"):
        scale_from_amax(amax)


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1), st.floats(1e-3, 1e3))
def test_fake_quantization_is_idempotent_and_errs_by_half_a_scale(values: list[float], amax: float) -> None:
    scale = scale_from_amax(amax)

    def fake_quantized(x: np.ndarray) -> np.ndarray:
        return np.clip(np.round(x / scale), -127, 127) * scale

    x = np.array(values)
    once = fake_quantized(x)
    np.testing.assert_array_equal(fake_quantized(once), once)
    inside = np.abs(x) <= amax
    # float32 rounds the scale, so the last level may lie half a step of float32 below amax
    assert np.all(np.abs(once - x)[inside] <= scale / 2 * (1 + 1e-6) + 127 * scale * 2**-23)
