"""Choosing a calibrator by what its INT8 network says."""

import numpy as np
import pytest
import torch

from converter.quantize.placement import place_quantizers
from converter.trust.calibrator_choice import choose_calibrator, divergences
from converter.trust.task.classes import Classes
from tests.converter import networks
from tests.converter.reference import graph_of, inputs_of


@pytest.mark.parametrize(
    ("means", "taken"),
    [
        ({"entropy": 8.5e-5, "max": 1.5e-5, "percentile": 7.3e-5, "mse": 2.6e-5}, "max"),
        ({"entropy": 0.171, "mse": 0.163}, "mse"),
        ({"entropy": 1.0, "max": 2.0}, "entropy"),
        ({"entropy": 1.0, "max": 1.0}, "entropy"),
    ],
)
def test_the_calibrator_of_least_divergence_is_taken(means: dict, taken: str) -> None:
    noise = np.random.default_rng(0).gamma(0.5, 2.0, 128)
    assert choose_calibrator({name: mean * noise for name, mean in means.items()}) == taken


@pytest.mark.slow
@torch.no_grad()
def test_ranges_that_clip_diverge_more() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual, 8)
    plan = place_quantizers(graph.onnx)
    wide, narrow = (dict.fromkeys(plan.observed, amax) for amax in (8.0, 0.05))
    found = divergences({"max": wide, "entropy": narrow}, graph, plan, Classes(5), x.numpy())
    assert 0 <= found["max"].mean() < found["entropy"].mean() / 10
    assert choose_calibrator(found) == "max"
