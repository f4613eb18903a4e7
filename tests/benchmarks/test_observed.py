"""Ranges for fewer bits, and the errors of ranges."""

import numpy as np
import pytest
import torch
from observed import low_bit_mse_amax, range_errors, ranges, squared_errors, summary

from calibrators.ranges.histogram import Histogram, HistogramCollector
from calibrators.ranges.scales import DEAD_AMAX
from calibrators.ranges.search import mse_amax, mse_errors


def histogram_of(x: torch.Tensor) -> Histogram:
    collector = HistogramCollector("x")
    collector.collect(x)
    return collector.histogram()


def normal(count: int = 20_000) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def test_errors_are_those_of_the_projects_search_at_8_bits() -> None:
    counts = histogram_of(normal()).counts.numpy()
    candidates, theirs = mse_errors(counts)
    some = slice(None, None, 97)
    np.testing.assert_allclose(squared_errors(counts, candidates[some], 127), theirs[some], rtol=1e-6)


def test_range_at_8_bits_is_that_of_the_projects_search() -> None:
    histogram = histogram_of(normal())
    assert low_bit_mse_amax(histogram, 127) == pytest.approx(mse_amax(histogram), rel=0.02)


def test_four_bits_clip_a_normal_distribution_where_the_literature_says() -> None:
    # With 15 levels, 7 of them positive, the least squared error is near 2.6 deviations.
    assert low_bit_mse_amax(histogram_of(normal(200_000)), 7) == pytest.approx(2.6, abs=0.2)


@pytest.mark.parametrize("levels", [7, 31])
def test_no_other_range_rounds_the_values_better(levels: int) -> None:
    x = normal() ** 3
    amax = low_bit_mse_amax(histogram_of(x), levels)

    def error(amax: float) -> float:
        scale = amax / levels
        return float((x - (x / scale).round().clamp(-levels, levels) * scale).square().mean())

    assert error(amax) <= 1.01 * min(
        error(float(a)) for a in np.geomspace(0.02, 1, 200) * float(x.abs().max())
    )


def test_values_that_fit_the_levels_are_not_clipped() -> None:
    x = torch.arange(-7, 8).float()
    assert low_bit_mse_amax(histogram_of(x), 7) == pytest.approx(7.0, rel=0.01)


def test_a_dead_tensor_gets_the_harmless_range() -> None:
    seen = {"dead": histogram_of(torch.zeros(9))}
    for algorithm, bits in (("max", 8), ("entropy", 8), ("mse", 4)):
        assert ranges(seen, algorithm, bits) == {"dead": DEAD_AMAX}


def test_entropy_is_refused_below_8_bits() -> None:
    with pytest.raises(ValueError, match="made for 8 bits"):
        ranges({"x": histogram_of(normal())}, "entropy", 4)


def test_errors_by_hand() -> None:
    errors = range_errors({"a": 4.0, "b": 0.5, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert errors == {"a": 2.0, "b": -1.0, "c": 0.0}
    assert summary(errors) == {"median": 1.0, "largest": 2.0, "signed_median": 0.0}
