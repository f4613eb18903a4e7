"""Outputs of any meaning."""

import numpy as np
import pytest

from converter.trust.task.anything import Anything


@pytest.mark.parametrize(
    ("fp32", "int8", "agreement"),
    [
        (([3.0, 4.0],), ([3.0, 4.0],), 1.0),
        (([3.0, 4.0],), ([4.0, -3.0],), 0.0),
        ((40.0,), (30.0,), 0.75),
        (([-40.0],), ([-50.0],), 0.8),
        (([[0.0]],), ([[0.0]],), 1.0),
        (([2.0],), ([-2.0],), -1.0),
        (([40.0], [0.0, 1.0]), ([20.0], [0.0, 9.0]), 0.75),
    ],
)
def test_vectors_agree_by_their_cosine_and_numbers_by_their_ratio(
    fp32: tuple[object, ...], int8: tuple[object, ...], agreement: float
) -> None:
    one, other = (tuple(np.array(value, np.float32) for value in values) for values in (fp32, int8))
    assert Anything(len(one)).agreement(one, other) == (pytest.approx(agreement), 1.0)


@pytest.mark.parametrize(
    ("numbers", "measure"),
    [(0, "cosine of the outputs"), (1, "cosine or ratio of the outputs"), (2, "ratio of the outputs")],
)
def test_the_measure_says_which(numbers: int, measure: str) -> None:
    assert Anything(2, numbers).measure == measure
