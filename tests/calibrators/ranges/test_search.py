import numpy as np
import pytest
import torch

from calibrators.options import ALGORITHMS, CalibrationOptions
from calibrators.ranges.entropy import entropy_amax
from calibrators.ranges.histogram import Histogram, HistogramCollector
from calibrators.ranges.search import amax_from_histogram, mse_amax, mse_errors, percentile_amax
from tests.calibrators.ranges.test_entropy import NAMES, activations
from tests.calibrators.theirs import theirs_amax

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:modelopt")]


def of_counts(counts: np.ndarray) -> Histogram:
    return Histogram.from_counts(torch.from_numpy(np.asarray(counts, np.int64)), 1.0)


def reference_mse(counts: np.ndarray, amax: float) -> float:
    centers = np.arange(len(counts)) + 0.5
    scale = amax / 127
    quantized = np.clip(np.round(centers / scale), -127, 127) * scale
    return float((counts * (quantized - centers) ** 2).sum())


def test_percentile_by_hand() -> None:
    histogram = of_counts([90, 9, 0, 0, 1])
    assert [percentile_amax(histogram, p) for p in (50.0, 90.0, 90.5, 99.0, 99.5, 100.0)] == [
        1,
        1,
        2,
        2,
        5,
        5,
    ]


@pytest.mark.parametrize("name", NAMES)
def test_percentile_is_nvidias_to_one_bin(name: str) -> None:
    counts = activations(name, 640)
    # No histogram has a share of exactly this much, where rounding would decide in their code.
    percentile = 99.9 + 1e-5
    ours = percentile_amax(of_counts(counts), percentile)
    assert ours - theirs_amax(counts, "percentile", percentile=percentile) == 1


def test_percentile_of_mostly_zeros_is_positive_where_theirs_is_0() -> None:
    counts = np.array([10**6, 0, 3])
    assert theirs_amax(counts, "percentile") == 0
    assert percentile_amax(of_counts(counts), 99.99) == 1


@pytest.mark.parametrize("name", NAMES)
def test_mse_is_nvidias(name: str) -> None:
    counts = activations(name, 640)
    ours, theirs = mse_amax(of_counts(counts)), theirs_amax(counts, "mse")
    # Theirs sums in float32, so it may miss the least error by that much and stop at a neighbour.
    assert reference_mse(counts, ours) <= reference_mse(counts, theirs) * (1 + 1e-9)
    assert reference_mse(counts, theirs) <= reference_mse(counts, ours) * (1 + 1e-5)
    assert abs(ours - theirs) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_of_the_definition(name: str) -> None:
    counts = activations(name, 300)
    candidates, errors = mse_errors(counts)
    expected = [reference_mse(counts, index + 0.5) for index in candidates]
    np.testing.assert_allclose(
        errors, expected, rtol=1e-7, atol=1e-12 * (counts * np.arange(300) ** 2.0).sum()
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dispatch(algorithm: str) -> None:
    histogram = of_counts(activations("heavy tail", 640))
    expected = {
        "max": histogram.amax,
        "percentile": percentile_amax(histogram, 99.0),
        "mse": mse_amax(histogram),
        "entropy": entropy_amax(histogram),
    }
    options = CalibrationOptions(algorithm=algorithm, percentile=99.0)
    assert amax_from_histogram(histogram, options) == expected[algorithm]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("counts", [[5], [0, 7], [0] * 300 + [1], [1] * 128, [1] * 129, [3] + [0] * 400])
def test_every_histogram_that_is_not_zero_has_a_positive_amax(algorithm: str, counts: list[int]) -> None:
    amax = amax_from_histogram(of_counts(np.array(counts)), CalibrationOptions(algorithm=algorithm))
    assert 0 < amax <= len(counts)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_zeros_give_0(algorithm: str) -> None:
    collector = HistogramCollector("x")
    collector.collect(torch.zeros(9))
    assert amax_from_histogram(collector.histogram(), CalibrationOptions(algorithm=algorithm)) == 0.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scaling_by_a_power_of_two_scales_amax_exactly(algorithm: str) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1)) ** 3
    plain, scaled = HistogramCollector("x"), HistogramCollector("x")
    plain.collect(x)
    scaled.collect(x * 2**-9)
    options = CalibrationOptions(algorithm=algorithm)
    assert amax_from_histogram(scaled.histogram(), options) * 2**9 == amax_from_histogram(
        plain.histogram(), options
    )
