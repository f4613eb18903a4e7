"""The losses by hand."""

import pytest
import torch

from converter.qat.losses import mean_squares, noise_to_signal


def test_noise_to_signal_by_hand() -> None:
    teacher = [torch.tensor([3.0, -1.0]), torch.tensor([[2.0]])]
    student = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    power = mean_squares(teacher)
    assert power.tolist() == [5.0, 4.0]
    assert noise_to_signal(student, teacher, power).item() == pytest.approx((0.5 / 5 + 4 / 4) / 2)


def test_a_feature_that_is_always_zero_is_no_division_by_zero() -> None:
    dead = [torch.zeros(3)]
    assert noise_to_signal(dead, dead, mean_squares(dead)).item() == 0
