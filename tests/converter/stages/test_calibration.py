"""Ranges of all activations, where several hold the same values."""

import pytest
import torch

from calibrators.data.batches import TensorBatches
from calibrators.options import CalibrationOptions
from calibrators.ranges.calibrate import calibrate
from converter.graph.capture import observe
from converter.stages.calibration import Activations
from tests.converter import networks
from tests.converter.reference import graph_of, inputs_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("algorithm", ["max", "percentile"])
def test_what_is_reshaped_is_observed_once(algorithm: str) -> None:
    graph, x = graph_of(networks.Sequence), inputs_of(networks.Sequence)
    batches, options = (
        TensorBatches(x, torch.zeros(len(x), dtype=torch.int64), 4),
        CalibrationOptions(algorithm),
    )
    every = calibrate(lambda x: observe(graph.module, x, graph.activations)[1], batches, options=options)
    activations = Activations(graph, CPU)
    assert len(activations(x)) < len(graph.activations)
    found = activations.all_of(calibrate(activations, batches, options=options))
    assert found == every
    assert list(found.amax) == list(graph.activations)


def test_a_reshaped_tensor_that_is_always_zero_is_named_too() -> None:
    graph = graph_of(networks.Sequence)
    x = torch.zeros(2, *inputs_of(networks.Sequence).shape[1:])
    activations = Activations(graph, CPU)
    found = calibrate(
        activations,
        TensorBatches(x, torch.zeros(2, dtype=torch.int64), 2),
        options=CalibrationOptions("max"),
    )
    whole = activations.all_of(found)
    assert set(whole.dead) == {name for name, first in activations.first.items() if first in found.dead}
    assert graph.activations[0] in whole.dead
