import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.errors import CalibrationError
from calibrators.ranges.histogram import NUM_BINS, Histogram, HistogramCollector
from calibrators.ranges.scales import MAX_AMAX

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(st.lists(finite, max_size=20), min_size=1, max_size=6)


def collected(*tensors: torch.Tensor) -> HistogramCollector:
    collector = HistogramCollector("x")
    for tensor in tensors:
        collector.collect(tensor)
    return collector


def same(a: Histogram, b: Histogram) -> bool:
    return torch.equal(a.counts, b.counts) and (a.bin_width, a.amax) == (b.bin_width, b.amax)


def test_by_hand() -> None:
    # amax 3 is below 4 = 2 ** 2, so 4,096 bins of 2 ** -10 hold it and 3 is in bin 3,072
    histogram = collected(torch.tensor([0.0, -3.0, 1 / 1024, 1.5 / 1024, -0.5 / 1024])).histogram()
    assert histogram.bin_width == 1 / 1024
    assert histogram.amax == 3.0
    assert len(histogram.counts) == 3073
    assert {int(j): int(histogram.counts[j]) for j in histogram.counts.nonzero()} == {0: 2, 1: 2, 3072: 1}


def test_a_value_on_an_edge_is_in_the_upper_bin_and_one_just_below_is_not() -> None:
    edges = torch.arange(1, NUM_BINS) / NUM_BINS
    top = torch.tensor([1 - 2**-13])  # holds the range at [0, 1)
    assert collected(top, edges).histogram().counts.tolist() == [0] + [1] * (NUM_BINS - 2) + [2]
    below = torch.nextafter(edges, torch.tensor(0.0))
    assert collected(top, below).histogram().counts.tolist() == [1] * NUM_BINS


def test_values_of_a_lower_range_are_folded() -> None:
    small, large = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([100.0])
    assert same(collected(small, large).histogram(), collected(large, small).histogram())


def ours_counts(x: torch.Tensor) -> np.ndarray:
    return collected(x).histogram().counts.numpy()


def theirs_counts(x: torch.Tensor, histogram: Histogram) -> np.ndarray:
    edges = np.arange(len(histogram.counts) + 1) * histogram.bin_width
    return np.histogram(x.abs().double().numpy(), bins=edges)[0]


@pytest.mark.parametrize("size", [10, 100_000])
def test_counts_are_numpys(size: int) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 7
    np.testing.assert_array_equal(ours_counts(x), theirs_counts(x, collected(x).histogram()))


@settings(max_examples=100, deadline=None)
@given(batches)
def test_total_is_conserved_and_the_used_part_is_2049_to_4096_bins(parts: list[list[float]]) -> None:
    histogram = collected(*map(torch.tensor, parts)).histogram()
    values = [abs(value) for part in parts for value in part]
    assert histogram.total == len(values)
    assert histogram.amax == max(values, default=0.0)
    if histogram.amax >= 2.0**-114:
        assert NUM_BINS // 2 < len(histogram.counts) <= NUM_BINS
        assert histogram.counts[-1] > 0


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(batches, st.randoms())
def test_neither_order_nor_batch_size_matters_and_merging_is_exact(parts: list[list[float]], random) -> None:
    reference = collected(*map(torch.tensor, parts))
    values = [value for part in parts for value in part]
    random.shuffle(values)
    assert same(collected(torch.tensor(values)).histogram(), reference.histogram())
    assert same(collected(*torch.tensor(values).split(3)).histogram(), reference.histogram())
    cut = random.randint(0, len(values))
    left, right = collected(torch.tensor(values[:cut])), collected(torch.tensor(values[cut:]))
    assert same(left.merged(right).histogram(), reference.histogram())
    assert same(right.merged(left).histogram(), reference.histogram())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100, width=16), min_size=1), st.integers(-60, 60))
def test_scaling_by_a_power_of_two_scales_the_width_alone(values: list[float], exponent: int) -> None:
    x = torch.tensor(values)
    plain, scaled = collected(x).histogram(), collected(x * 2.0**exponent).histogram()
    assert torch.equal(plain.counts, scaled.counts)
    assert scaled.amax == plain.amax * 2.0**exponent


@pytest.mark.parametrize("amax", [MAX_AMAX, 2.0**-119, 2.0**-149])
def test_the_ends_of_float32(amax: float) -> None:
    histogram = collected(torch.tensor([amax, -amax, 0.0])).histogram()
    assert histogram.total == 3
    assert histogram.amax == amax
    assert math.isfinite(histogram.bin_width)


def test_zeros_and_nothing() -> None:
    zeros = collected(torch.zeros(5), torch.zeros(0, 3)).histogram()
    assert (zeros.counts.tolist(), zeros.amax) == ([5], 0.0)
    assert collected().histogram().total == 0


def test_zeros_that_came_first_are_kept() -> None:
    assert collected(torch.zeros(5), torch.ones(1)).histogram().counts[0] == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_count_as_float32(dtype: torch.dtype) -> None:
    x = torch.linspace(-2, 2, 1001).to(dtype)
    assert same(collected(x).histogram(), collected(x.float()).histogram())


def test_a_double_that_rounds_over_the_range_is_counted() -> None:
    x = torch.tensor([1 - 2**-50], dtype=torch.float64)
    assert collected(x).histogram().total == 1


def test_layout_and_gradient_do_not_matter() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    expected = collected(x).histogram()
    assert same(collected(x.contiguous(memory_format=torch.channels_last)).histogram(), expected)
    assert same(collected(x[0].expand(2, 3, 4, 5)).histogram(), collected(x[0], x[0]).histogram())
    assert collected(torch.tensor(3.0)).histogram().total == 1


def test_more_values_than_float32_can_count() -> None:
    x = torch.ones(1 << 21)
    assert collected(*[x] * 9).histogram().total == 9 << 21 > 1 << 24


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused_and_not_counted(bad: float) -> None:
    collector = HistogramCollector("relu_3")
    collector.collect(torch.ones(3))
    with pytest.raises(CalibrationError, match="tensor 'relu_3', got 1 of 2 that are NaN"):
        collector.collect(torch.tensor([1.0, bad]))
    assert collector.histogram().total == 3


@pytest.mark.parametrize(("counts", "width"), [([], 1.0), ([-1], 1.0), ([1], 0.0), ([1], math.inf)])
def test_a_broken_histogram_is_refused(counts: list[int], width: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        Histogram(torch.tensor(counts, dtype=torch.int64), width, 1.0)


def test_from_counts() -> None:
    histogram = Histogram.from_counts(torch.tensor([1, 0, 2]), 0.5)
    assert (histogram.amax, histogram.total) == (1.5, 3)
    assert Histogram.from_counts(torch.tensor([0, 0]), 0.5).amax == 0.0
