import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.ranges import entropy
from calibrators.ranges.entropy import entropy_amax, entropy_divergences, widest_argmin
from calibrators.ranges.histogram import Histogram, HistogramCollector
from tests.calibrators.theirs import reference_divergence, theirs_amax

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:modelopt")]


def histogram_of(values: np.ndarray, bins: int) -> np.ndarray:
    magnitude = np.abs(values)
    return np.histogram(magnitude, bins=bins, range=(0, magnitude.max()))[0]


def activations(name: str, bins: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal = rng.normal(size=50_000)
    made = {
        "gaussian": lambda: histogram_of(normal, bins),
        "relu": lambda: histogram_of(np.maximum(normal, 0), bins),
        "relu6": lambda: histogram_of(np.clip(normal * 4, 0, 6), bins),
        "heavy tail": lambda: histogram_of(rng.standard_t(2, size=50_000), bins),
        "exponential": lambda: histogram_of(rng.exponential(size=50_000), bins),
        "few values": lambda: histogram_of(rng.normal(size=300), bins),
        "sparse": lambda: rng.integers(0, 4, bins) * (rng.random(bins) < 0.1),
        "spiky": lambda: rng.integers(0, 10**6, bins) * (rng.random(bins) < 0.02) + (rng.random(bins) < 0.5),
        "one outlier": lambda: np.r_[histogram_of(normal, bins // 2), np.zeros(bins // 2 - 1, np.int64), 1],
        "two lumps": lambda: histogram_of(np.r_[normal, normal[:500] + 30], bins),
        "convolution": lambda: histogram_of(convolution(), bins),
    }
    return made[name]().astype(np.int64)


NAMES = [
    "gaussian", "relu", "relu6", "heavy tail", "exponential", "few values", "sparse", "spiky", "one outlier",
    "two lumps", "convolution",
]  # fmt: skip


def convolution() -> np.ndarray:
    """Output of a random residual step on smooth noise."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 16, 28, 28, generator=generator)
    x = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    weight = torch.randn(32, 16, 3, 3, generator=generator) * 0.1
    return torch.relu(torch.nn.functional.conv2d(x, weight, padding=1)).numpy()


def ours_amax(counts: np.ndarray) -> float:
    return entropy_amax(Histogram.from_counts(torch.from_numpy(counts), 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_same_amax_as_nvidias_calibrator(name: str) -> None:
    counts = activations(name, 640)
    assert ours_amax(counts) == theirs_amax(counts, "entropy")


def test_same_amax_on_2048_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a few calls of NumPy for many candidates at once, where theirs has a loop over each one's bins."""
    passes: list[int] = []
    divergence = entropy._Sums.divergence
    monkeypatch.setattr(
        entropy._Sums, "divergence", lambda self, some: passes.append(len(some)) or divergence(self, some)
    )
    counts = activations("relu", 2048)
    assert ours_amax(counts) == theirs_amax(counts, "entropy")
    assert sum(passes) == 2048 - 127
    assert len(passes) == math.ceil(sum(passes) / entropy.CHUNK) < 20


@pytest.mark.parametrize("name", NAMES)
def test_divergences_are_those_of_the_definition(name: str) -> None:
    counts = activations(name, 300)
    candidates, ours = entropy_divergences(counts)
    theirs = [reference_divergence(counts, int(size)) for size in candidates]
    assert candidates.tolist() == list(range(128, 301))
    # Float64 sums of up to 50,000 values times their logarithm: 1e-15 * log(50,000) * a few
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


def test_by_hand() -> None:
    # 256 bins: (3, 1) in bins 2 and 3, (2, 2) in bins 254 and 255, all others empty.
    counts = np.zeros(256, np.int64)
    counts[[2, 3, 254, 255]] = 3, 1, 2, 2
    candidates, divergence = entropy_divergences(counts)
    # All 256 bins, levels of two bins: Q is (2, 2) where P is (3, 1), and equal elsewhere.
    log = math.log
    assert divergence[-1] == pytest.approx(3 / 8 * log(3 / 2) + 1 / 8 * log(1 / 2), abs=1e-15)
    # 255 bins: P has 2 + 2 in bin 254, Q holds 6 values. Bins 2 and 3 share level 1 (from 1.99 to 3.98).
    expected = 3 / 8 * log(3 / 8 / (2 / 6)) + 1 / 8 * log(1 / 8 / (2 / 6)) + 4 / 8 * log(4 / 8 / (2 / 6))
    assert divergence[-2] == pytest.approx(expected, abs=1e-15)
    # 254 bins: the last one is empty, and outliers can't be represented.
    assert divergence[-3] == math.inf
    assert candidates[-3:].tolist() == [254, 255, 256]


def test_p_equal_to_q_gives_0() -> None:
    # As many bins as levels: nothing is merged.
    counts = np.arange(1, 129)
    assert entropy_divergences(counts)[1] == pytest.approx([0.0], abs=1e-14)
    # A histogram that is flat within each level of the whole.
    assert entropy_divergences(np.repeat(counts, 3))[1][-1] == pytest.approx(0.0, abs=1e-14)


def test_of_equal_candidates_the_widest_wins() -> None:
    assert widest_argmin(np.array([3.0, 1.0, 1.0 + 1e-14, 2.0, np.inf])) == 2
    assert widest_argmin(np.array([np.inf, np.inf])) == 1
    assert ours_amax(np.full(512, 7)) == theirs_amax(np.full(512, 7), "entropy") == 512


def test_zeros_do_not_count() -> None:
    counts = activations("relu", 640)
    more_zeros = counts.copy()
    more_zeros[0] += 10**9
    assert ours_amax(more_zeros) == ours_amax(counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], 0.0),
        ([5], 1.0),
        ([5, 0, 0], 3.0),
        ([0, 0, 5], 3.0),
        ([1] * 127, 127.0),
        ([0] * 50 + [9] + [0] * 950, 1001.0),
        ([0] * 500 + [9], 501.0),
    ],
)
def test_degenerate_histograms(counts: list[int], expected: float) -> None:
    assert ours_amax(np.array(counts)) == expected


def test_values_far_from_zero_are_not_clipped_away() -> None:
    # Sigmoid gates, for example. The plain scheme ends at the first filled bin, where P = Q.
    counts = histogram_of(0.6 + 0.05 * np.random.default_rng(0).normal(size=50_000), 640)
    first = np.flatnonzero(counts)[0]
    assert theirs_amax(counts, "entropy") == first
    assert counts[: int(ours_amax(counts))].sum() > 0.99 * counts.sum()


def test_never_above_the_largest_value() -> None:
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    collector = HistogramCollector("x")
    collector.collect(x)
    assert entropy_amax(collector.histogram()) <= float(x.max())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100, width=16), min_size=1, max_size=200), st.integers(-40, 40))
def test_scaling_by_a_power_of_two_scales_amax_exactly(values: list[float], exponent: int) -> None:
    plain, scaled = HistogramCollector("x"), HistogramCollector("x")
    plain.collect(torch.tensor(values))
    scaled.collect(torch.tensor(values) * 2.0**exponent)
    assert entropy_amax(scaled.histogram()) == entropy_amax(plain.histogram()) * 2.0**exponent


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=400))
def test_divergence_is_never_negative_or_nan(counts: list[int]) -> None:
    divergence = entropy_divergences(np.array(counts))[1]
    assert np.all(divergence >= -1e-13)
