"""The user's own function for boxes: what it may give, and what each mistake is told."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converter.errors import DecodeError
from converter.trust.task.base import Task
from converter.trust.task.box_decoder import DecodedBoxes

NAMES = ("scores", "places")
OUTPUTS = (np.array([[0.3, 0.9], [0.1, 0.2]], np.float32), np.zeros((2, 2, 4), np.float32))


def good(outputs: Mapping[str, NDArray[Any]]) -> list[tuple[Any, ...]]:
    return [
        (np.add(places, [0, 0, 10, 20]), scores, [1, 2])
        for scores, places in zip(outputs["scores"], outputs["places"], strict=True)
    ]


def decoded(decode: Any) -> DecodedBoxes:
    return DecodedBoxes(decode, "mine.py:boxes", NAMES)


def test_boxes_come_sorted_as_one_array() -> None:
    task = decoded(good)
    assert isinstance(task, Task)
    answers = task.answers(OUTPUTS)
    assert answers[0].tolist() == [
        pytest.approx([0, 0, 10, 20, 0.9, 2]),
        pytest.approx([0, 0, 10, 20, 0.3, 1]),
    ]
    assert task.agreement(answers[0], answers[0]) == (4, 4)
    assert task.agreement(answers[1], answers[1]) == (0, 0)
    assert task.describe() == "boxes by mine.py:boxes"


def test_tensors_and_no_boxes_are_taken() -> None:
    nothing = ([], [], [])
    box = (torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([0.5]), torch.tensor([3]))
    answers = decoded(lambda outputs: (nothing, box)).answers(OUTPUTS)
    assert answers[0].shape == (0, 6)
    assert answers[1].tolist() == [[0, 0, 1, 1, 0.5, 3]]


def test_heads_are_those_of_any_outputs() -> None:
    heads = decoded(good).heads(tuple(torch.from_numpy(values) for values in OUTPUTS))
    assert [head.kind for head in heads] == ["value", "value"]


def test_what_it_raises_is_said_with_the_outputs_it_got() -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(lambda outputs: outputs["boxes"]).answers(OUTPUTS)
    assert str(caught.value) == (
        "--decode mine.py:boxes raised KeyError: 'boxes'; it is called with a dict of the outputs scores [2, 2], "
        "places [2, 2, 4]"
    )


@pytest.mark.parametrize(
    ("gives", "came"),
    [
        (None, "got NoneType"),
        ([([], [], [])], "for each of 2 images, got 1"),
        ([None, None], "got a NoneType for image 0"),
        ([([], [], []), ([], [])], "got a tuple of 2 for image 1"),
        ([(np.zeros((3, 5)), [0] * 3, [0] * 3)] * 2, "got [3, 5], [3], [3] for image 0"),
        ([(np.zeros((3, 4)), [0] * 2, [0] * 3)] * 2, "got [3, 4], [2], [3] for image 0"),
        ([(np.zeros((3, 4)), np.zeros((3, 1)), [0] * 3)] * 2, "got [3, 4], [3, 1], [3] for image 0"),
        ([(np.zeros(4), [0], [0])] * 2, "got [4], [1], [1] for image 0"),
        ([([], [0.5], [1])] * 2, "got [0, 4], [1], [1] for image 0"),
        ([(np.full((1, 4), np.nan), [0], [0])] * 2, "got NaN or infinity for image 0"),
        ([([["a"] * 4], [0], [0])] * 2, "got no array of numbers for image 0"),
        ([([[0, 0, 1, 1]], [0.5], ["dog"])] * 2, "got no array of numbers for image 0"),
    ],
)
def test_other_shapes_are_refused_with_what_was_expected(gives: Any, came: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(lambda outputs: gives).answers(OUTPUTS)
    assert str(caught.value).startswith("--decode mine.py:boxes: expected a list with (boxes [k, 4]")
    assert came in str(caught.value)
