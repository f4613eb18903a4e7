"""Masks: their heads, mIoU by hand, and what an ArgMax leaves."""

import numpy as np
import pytest
import torch

from converter.errors import LoadError
from converter.trust.task.base import Task, agreement_of
from converter.trust.task.heads import divergence
from converter.trust.task.mask import MOST_POSITIONS, Mask
from tests.converter.trust.task.fisher import measured_and_projected

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("task", [Mask(5), Mask(1), Mask(1, "sigmoid"), Mask(None)])
def test_is_a_task_without_labels(task: Mask) -> None:
    assert isinstance(task, Task)
    assert (task.classes, task.training_logits((torch.zeros(1, 5, 2, 2),))) == (1, None)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Mask(21), "21 classes a pixel"),
        (Mask(3, "softmax"), "3 classes a pixel behind a softmax"),
        (Mask(1, "sigmoid"), "foreground behind a sigmoid"),
        (Mask(None), "a class a pixel behind an ArgMax"),
    ],
)
def test_describes_itself(task: Mask, words: str) -> None:
    assert task.describe() == words


@pytest.mark.parametrize("final", ["logits", "softmax", "log_softmax"])
def test_heads_look_through_the_end(final: str) -> None:
    logits = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    values = {"logits": logits, "softmax": logits.softmax(1), "log_softmax": logits.log_softmax(1)}[final]
    (head,) = Mask(4, final, index=1).heads((torch.zeros(2, 1), values))
    assert head.kind == "categorical"
    torch.testing.assert_close(head.values.log_softmax(1), logits.log_softmax(1))


@pytest.mark.parametrize("shape", [(3, 1, 5, 6), (3, 5, 6)])
def test_foreground_is_a_yes_or_no_a_pixel(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    (head,) = Mask(1, "sigmoid").heads((logits.sigmoid(),))
    assert head.kind == "binary"
    torch.testing.assert_close(head.values, logits.reshape(3, 1, 5, 6))
    answers = Mask(1, "sigmoid").answers((logits.sigmoid().numpy(),))
    assert np.array_equal(np.stack(answers), (logits > 0).numpy().reshape(3, 5, 6))
    assert np.array_equal(np.stack(answers), np.stack(Mask(1).answers((logits.numpy(),))))


@pytest.mark.parametrize("height", [1, 64, 65, 128, 256, 500])
def test_heads_of_large_masks_take_every_few_pixels(height: int) -> None:
    (head,) = Mask(2).heads((torch.randn(1, 2, height, 40),))
    rows = head.values.shape[2]
    assert head.values.shape[3] == 40
    assert MOST_POSITIONS // 3 <= rows <= MOST_POSITIONS if height > MOST_POSITIONS else rows == height


def test_the_estimate_of_a_large_mask_sees_an_upsampling_whole() -> None:
    # INT8's errors on every fourth pixel alone, as an upsampling by 4 may make them.
    fp32 = torch.zeros(1, 2, 256, 256)
    int8 = fp32.clone()
    int8[:, 0, 1::4, 1::4] = 1.0
    whole = float((Mask(2).heads((int8,))[0].values != 0).double().mean())
    assert whole == pytest.approx(1 / 32, rel=0.2)


@pytest.mark.parametrize(("task", "channels"), [(Mask(5), 5), (Mask(1), 1), (Mask(4, "softmax"), 4)])
def test_divergence_is_what_the_projections_say(task: Mask, channels: int) -> None:
    output = torch.randn(1, channels, 4, 5, generator=torch.Generator().manual_seed(1))
    measured, projected = measured_and_projected(
        task, output.softmax(1) if task.final == "softmax" else output
    )
    assert projected == pytest.approx(measured, rel=0.1)


def test_a_mask_behind_an_argmax_has_no_heads() -> None:
    with pytest.raises(LoadError, match="give MODEL without its ArgMax"):
        Mask(None).heads((torch.zeros(2, 4, 4, dtype=torch.int64),))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 1, 3, 4)])
def test_a_mask_behind_an_argmax_is_its_own_answer(shape: tuple[int, ...], dtype: type) -> None:
    values = RANDOM.integers(0, 7, shape).astype(dtype)
    answers = Mask(None).answers((values,))
    assert all(answer.dtype == np.uint16 for answer in answers)
    assert np.array_equal(np.stack(answers), values.reshape(2, 3, 4))


def test_answers_are_small() -> None:
    few, many = RANDOM.normal(size=(1, 256, 2, 2)), RANDOM.normal(size=(1, 300, 2, 2))
    (a,), (b,) = Mask(256).answers((few,)), Mask(300).answers((many,))
    assert (a.dtype, b.dtype) == (np.uint8, np.uint16)
    assert np.array_equal(b, many[0].argmax(0))


def test_agreement_by_hand() -> None:
    fp32, int8 = np.uint8([[0, 0], [1, 1]]), np.uint8([[0, 0], [1, 2]])
    assert Mask(3).agreement(fp32, int8) == (pytest.approx((1 + 1 / 2 + 0) / 3), 1.0)
    assert Mask(3).agreement(fp32, fp32) == (1.0, 1.0)
    both = agreement_of(Mask(3), [fp32, fp32], [int8, fp32])
    assert both.percent == pytest.approx(75.0)


def test_accuracy_by_hand() -> None:
    answer, truth = np.uint8([[0, 0, 1], [1, 1, 2]]), np.int64([[0, 1, 1], [1, 255, 2]])
    # class 0: 1 of 2, class 1: 2 of 3, class 2: 1 of 1
    expected = 100 * (1 / 2 + 2 / 3 + 1) / 3
    assert Mask(5).accuracy([answer], [truth]) == pytest.approx(expected)
    assert Mask(None).accuracy([answer], [np.where(truth == 255, -1, truth)]) == pytest.approx(expected)


def test_accuracy_is_over_the_pixels_of_all_images() -> None:
    zeros, ones = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    # class 0: 4 of 8, class 1: 0 of 4, although one of the images is right
    assert Mask(2).accuracy([zeros, zeros], [zeros, ones]) == pytest.approx(25.0)


def test_accuracy_against_an_independent_reference() -> None:
    answers, truths = RANDOM.integers(0, 6, (3, 9, 7)), RANDOM.integers(0, 6, (3, 9, 7))
    ious = [((answers == c) & (truths == c)).sum() / ((answers == c) | (truths == c)).sum() for c in range(6)]
    assert Mask(6).accuracy(list(answers), list(truths)) == pytest.approx(100 * np.mean(ious))


def test_a_truth_of_another_size_is_resized_to_the_answer() -> None:
    answer = RANDOM.integers(0, 4, (4, 6)).astype(np.uint8)
    large = answer.repeat(3, axis=0).repeat(5, axis=1)
    assert Mask(4).accuracy([answer], [large]) == 100.0
    assert Mask(4).accuracy([large], [answer]) == 100.0


@pytest.mark.parametrize("channels", [1, 2])
def test_a_foreground_may_be_written_as_255(channels: int) -> None:
    answer = np.uint8([[0, 1], [1, 1]])
    black_and_white = np.uint8([[0, 255], [255, 0]])
    assert Mask(channels).accuracy([answer], [black_and_white]) == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    # Where there is a 1 as well, 255 is what doesn't count.
    assert Mask(channels).accuracy([answer], [np.uint8([[0, 255], [1, 255]])]) == 100.0


def test_divergence_of_equal_masks_is_zero() -> None:
    heads = Mask(3).heads((torch.randn(2, 3, 5, 5),))
    assert divergence(heads, heads).tolist() == [0.0, 0.0]
