"""One choice among classes."""

import math

import numpy as np
import pytest
import torch

from converter.trust.task.base import Agreement, agreement_of
from converter.trust.task.classes import Classes
from converter.trust.task.final import Final
from converter.trust.task.heads import divergence, softened_divergence


def test_a_single_logit_decides_by_its_sign() -> None:
    task = Classes(1)
    assert task.classes == 2
    assert task.answers((np.array([[-1.0], [2.0]], np.float32),)) == [0, 1]
    assert task.training_logits((torch.tensor([[-1.0], [2.0]]),)).tolist() == [[0.0, -1.0], [0.0, 2.0]]


def test_a_single_logit_is_two_classes() -> None:
    p = Classes(1).training_logits((torch.tensor([[math.log(3.0)]]),)).softmax(1)
    torch.testing.assert_close(p, torch.tensor([[0.25, 0.75]]))
    one, two = Classes(1), Classes(2)
    fp32, int8 = torch.tensor([[2.0], [-2.0]]), torch.tensor([[0.0], [-2.0]])
    wide_fp32, wide_int8 = (torch.cat([torch.zeros(2, 1), x], 1) for x in (fp32, int8))
    for measure in (divergence, softened_divergence):
        both = measure(two.heads((wide_fp32,)), two.heads((wide_int8,)))
        torch.testing.assert_close(measure(one.heads((fp32,)), one.heads((int8,))), both)
        assert both[0] > 0


@pytest.mark.parametrize("final", ["logits", "log_softmax", "softmax"])
def test_the_logits_are_found_behind_the_end(final: Final) -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    said = {"logits": logits, "log_softmax": logits.log_softmax(1), "softmax": logits.softmax(1)}[final]
    task = Classes(5, final, index=1)
    found = task.training_logits((torch.zeros(4, 9), said[:, :, None, None]))
    torch.testing.assert_close(found.softmax(1), logits.softmax(1))
    assert task.answers((np.zeros((4, 9)), said.numpy())) == logits.argmax(1).tolist()
    wide = task.decision_logits((np.zeros((4, 9)), said.numpy()))
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, found.numpy(), rtol=1e-6)


def test_accuracy_and_agreement_by_hand() -> None:
    task = Classes(3)
    assert task.accuracy([0, 1, 2, 1], [0, 1, 0, 2]) == 50.0
    found = agreement_of(task, [0, 1, 2, 1], [0, 1, 2, 2])
    assert (found.both.tolist(), found.of.tolist(), found.percent) == ([1, 1, 1, 0], [1, 1, 1, 1], 75.0)


def test_the_standard_error_is_that_of_a_ratio() -> None:
    """Against many draws of as many inputs, whose amounts differ."""
    random = np.random.default_rng(0)

    def draw(count: int) -> Agreement:
        of = random.integers(0, 9, count).astype(np.float64)
        return Agreement(random.binomial(of.astype(int), 0.8).astype(np.float64), of)

    drawn = [draw(50) for _ in range(2000)]
    spread = float(np.std([found.percent for found in drawn]))
    assert np.mean([found.standard_error for found in drawn]) == pytest.approx(spread, rel=0.1)


def test_where_nobody_says_anything_both_agree() -> None:
    silent = Agreement(np.zeros(3), np.zeros(3))
    assert (silent.percent, silent.standard_error) == (100.0, 0.0)
    assert Agreement(np.array([1.0]), np.array([2.0])).standard_error == 0.0
