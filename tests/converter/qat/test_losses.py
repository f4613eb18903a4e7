"""The losses by hand."""

import math

import pytest
import torch

from converter.qat.losses import distillation_loss, log_probabilities, mean_squares, noise_to_signal


def test_distillation_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.5], [0.8, 0.2]]))
    student = torch.log(torch.tensor([[0.25, 0.75], [0.8, 0.2]]))
    expected = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(3 * student, 3 * teacher, 3.0).item() == pytest.approx(9 * expected, rel=1e-5)
    assert distillation_loss(teacher + 5, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)


def test_a_single_logit_is_two_classes() -> None:
    p = log_probabilities(torch.tensor([[math.log(3.0)]])).exp()
    torch.testing.assert_close(p, torch.tensor([[0.25, 0.75]]))


def test_noise_to_signal_by_hand() -> None:
    teacher = [torch.tensor([3.0, -1.0]), torch.tensor([[2.0]])]
    student = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    power = mean_squares(teacher)
    assert power.tolist() == [5.0, 4.0]
    assert noise_to_signal(student, teacher, power).item() == pytest.approx((0.5 / 5 + 4 / 4) / 2)


def test_a_feature_that_is_always_zero_is_no_division_by_zero() -> None:
    dead = [torch.zeros(3)]
    assert noise_to_signal(dead, dead, mean_squares(dead)).item() == 0
