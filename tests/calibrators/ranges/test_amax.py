import pytest
import torch

from calibrators.errors import CalibrationError
from calibrators.ranges.amax import AmaxCollector, finite_amax, weight_amax
from calibrators.ranges.scales import MIN_AMAX


def test_amax_is_exact_over_batches() -> None:
    collector = AmaxCollector("conv")
    for batch in (torch.tensor([0.1, -3.25]), torch.zeros(0), torch.tensor([[2.0]])):
        collector.collect(batch)
    assert collector.amax == 3.25


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    with pytest.raises(CalibrationError, match=r"tensor 'layer1\.conv', got 2 of 4"):
        finite_amax(torch.tensor([1.0, bad, -2.0, bad]), "layer1.conv")


def test_weight_amax_by_channel() -> None:
    weight = torch.tensor([[[1.0, -4.0]], [[0.5, 0.25]]])
    assert weight_amax(weight, 0).tolist() == [4.0, 0.5]
    assert weight_amax(weight, 2).tolist() == [1.0, 4.0]
    assert weight_amax(weight, -1).tolist() == [1.0, 4.0]


def test_a_dead_channel_gets_the_amax_of_the_weight() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.5, -2.0], [1e-40, 0.0]])
    assert weight_amax(weight, 0).tolist() == [2.0, 2.0, 2.0]


def test_a_dead_weight_gets_1() -> None:
    assert weight_amax(torch.zeros(3, 2), 0).tolist() == [1.0, 1.0, 1.0]


def test_a_weight_of_the_least_amax_keeps_it() -> None:
    assert weight_amax(torch.tensor([[MIN_AMAX]]), 0).tolist() == [MIN_AMAX]


@pytest.mark.parametrize(
    ("weight", "match"), [(torch.tensor([[torch.nan]]), "NaN"), (torch.ones(2, 0), "shape")]
)
def test_broken_weights_are_refused(weight: torch.Tensor, match: str) -> None:
    with pytest.raises(CalibrationError, match=match):
        weight_amax(weight, 0)


def test_half_precision_is_read_exactly() -> None:
    assert (
        weight_amax(torch.tensor([[0.1]], dtype=torch.bfloat16), 0).item()
        == torch.tensor(0.1).bfloat16().item()
    )
