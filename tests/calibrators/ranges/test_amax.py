import pytest
import torch

from calibrators.errors import CalibrationError
from calibrators.ranges.amax import AmaxCollector, finite_amax


def test_amax_is_exact_over_batches() -> None:
    collector = AmaxCollector("conv")
    for batch in (torch.tensor([0.1, -3.25]), torch.zeros(0), torch.tensor([[2.0]])):
        collector.collect(batch)
    assert collector.amax == 3.25


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    with pytest.raises(CalibrationError, match=r"tensor 'layer1\.conv', got 2 of 4"):
        finite_amax(torch.tensor([1.0, bad, -2.0, bad]), "layer1.conv")
