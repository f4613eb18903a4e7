"""The one rule for the scales of weights, by hand."""

import pytest
import torch

from calibrators.errors import CalibrationError
from converter.quantize.fake_quant import rounded_weight
from converter.quantize.weight_scales import SMALLEST_SCALE, min_scales, rounded_steps, weight_scales


def test_each_channel_has_the_scale_of_its_largest_value() -> None:
    weight = torch.tensor([[[1.0, -4.0]], [[0.5, 0.25]]])
    assert weight_scales(weight, 0, levels=1).tolist() == [4.0, 0.5]
    assert weight_scales(weight, 2, levels=1).tolist() == [1.0, 4.0]
    assert weight_scales(weight, -1, levels=1).tolist() == [1.0, 4.0]
    assert weight_scales(torch.tensor([254.0, 0.0]), 0).tolist() == [2.0, 1.0]


def test_dead_and_tiny_channels() -> None:
    weight = torch.tensor([[0.0, 0.0], [1e-40, 0.0], [127.0, 0.0]])
    assert weight_scales(weight, 0).tolist() == [1.0, SMALLEST_SCALE, 1.0]
    raised = weight_scales(weight, 0, min_scale=torch.tensor([0.5, 3.0, 4.0]))
    assert raised.tolist() == [1.0, 3.0, 4.0]
    assert rounded_steps(weight, 0, raised).tolist() == [[0.0, 0.0], [0.0, 0.0], [32.0, 0.0]]


def test_half_precision_is_read_exactly() -> None:
    weight = torch.tensor([[0.1]], dtype=torch.bfloat16)
    assert weight_scales(weight, 0, levels=1).item() == weight.float().item()


def test_a_bias_raises_the_scales_that_it_needs() -> None:
    bias, step = torch.tensor([1.0, -2.0, 4.0, 0.0]) * 2.0**30, torch.tensor(0.5)
    assert min_scales(bias, step, 4).tolist() == [2.0, 4.0, 8.0, 0.0]
    assert min_scales(bias, step, 2).tolist() == [8.0, 4.0]  # two groups share two scales
    assert min_scales(bias[1:2], step, 3).tolist() == [4.0, 4.0, 4.0]  # broadcast


def test_the_simulation_rounds_tiny_weights_to_the_zeros_of_the_int8_model() -> None:
    assert rounded_weight(torch.full((1, 2), 1e-25), 0, 8).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(
        CalibrationError, match=r"finite values in tensor 'weight of shape \(1, 2\)', got 1 of 2"
    ):
        rounded_weight(torch.tensor([[bad, 1.0]]), 0, 8)
