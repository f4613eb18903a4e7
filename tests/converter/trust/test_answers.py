"""What two networks say to the same inputs, counted by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibrators.data.batches import TensorBatches
from converter.trust.answers import answers, compare, in_parts
from converter.trust.task.base import Outputs
from converter.trust.task.box_decoder import DecodedBoxes
from converter.trust.task.classes import Classes

TASK = Classes(3)


def one_hot(batch: NDArray[np.float32]) -> Outputs:
    """Chooses the class that the input names; a second output of twice the input."""
    return np.eye(3, dtype=np.float32)[batch[:, 0, 0, 0].astype(int)], 2 * batch


def never_one(batch: NDArray[np.float32]) -> Outputs:
    """The same, but for class 1, which it takes for 2; the second output is half of it."""
    return one_hot(np.where(batch == 1, np.float32(2), batch))[0], batch


def batches() -> TensorBatches:
    x = torch.tensor([0.0, 1.0, 2.0, 1.0]).view(4, 1, 1, 1)
    return TensorBatches(x, torch.full((4,), -1), batch_size=3)


def test_counts_by_hand() -> None:
    truths, done = [0, 1, 0, 2], list[int]()
    fp32 = answers(one_hot, TASK, batches(), truths, done.append)
    int8 = answers(never_one, TASK, batches(), truths)
    assert fp32.items == [0, 1, 2, 1]
    assert int8.items == [0, 2, 2, 2]
    assert (fp32.accuracy, int8.accuracy, fp32.agreement(int8).percent) == (50.0, 50.0, 50.0)
    assert done == [3, 4]


def test_compared_batch_by_batch_it_is_the_same() -> None:
    done: list[int] = []
    found = compare(one_hot, never_one, TASK, ("logits", "map"), batches(), done.append)
    assert found.agreement.both.tolist() == [1, 0, 1, 0]
    assert found.agreement.of.tolist() == [1, 1, 1, 1]
    assert found.agreement.percent == 50.0
    assert found.agreement.standard_error == pytest.approx(
        100 * (0.5 / 3**0.5 * 1)
    )  # of 4 with deviation 1/2
    assert found.errors.inputs == 4
    assert found.errors.sqnr_db() == pytest.approx(
        {
            "logits": 0.0,
            "map": 10 * np.log10(4),
        }  # 4 of 4: two errors of two; noise is a quarter of the signal
    )
    assert found.errors.cosine() == pytest.approx({"logits": 0.5, "map": 1.0})
    assert done == [3, 4]


def test_equal_networks_agree_without_noise() -> None:
    found = compare(one_hot, one_hot, TASK, ("logits", "map"), batches())
    assert (found.agreement.percent, found.agreement.standard_error) == (100.0, 0.0)
    assert found.errors.sqnr_db() == {"logits": np.inf, "map": np.inf}
    assert found.errors.cosine() == {"logits": 1.0, "map": 1.0}


def test_a_network_with_bounded_batches_gets_parts_that_fit() -> None:
    sizes: list[int] = []

    def bounded(x: NDArray[np.float32]) -> Outputs:
        sizes.append(len(x))
        return x.reshape(len(x), -1), -x

    x = np.arange(9, dtype=np.float32).reshape(9, 1, 1, 1)
    flat, negative = in_parts(bounded, 2, 4)(x)
    assert flat[:, 0].tolist() == list(range(9))
    np.testing.assert_array_equal(negative, -x)
    assert sizes == [4, 4, 2]


@pytest.mark.parametrize(("score", "nothing"), [(0.2, True), (0.25, False)])
def test_a_detector_that_finds_no_box_that_counts_has_nothing_to_agree_on(
    score: float, nothing: bool
) -> None:
    def found(outputs: Mapping[str, NDArray[Any]]) -> Any:
        box = ([[0, 0, 4, 4]], [score], [0])
        return [box if value == 2 else ([], [], []) for value in outputs["x"]]

    task = DecodedBoxes(found, "net.py:found", ("x",))

    def network(x: NDArray[np.float32]) -> Outputs:
        return (x.reshape(-1),)

    assert compare(network, network, task, ("x",), batches()).nothing_found is nothing
    assert answers(network, task, batches(), []).nothing_found is nothing


def test_a_class_is_always_something_to_agree_on() -> None:
    assert not compare(one_hot, one_hot, TASK, ("logits", "map"), batches()).nothing_found
    assert not answers(one_hot, TASK, batches(), []).nothing_found
