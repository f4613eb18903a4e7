"""Choosing a calibrator by what its INT8 network says."""

import math

import numpy as np
import pytest
import torch

from converter.quantize.placement import place_quantizers
from converter.trust.calibrator_choice import (
    choose_calibrator,
    divergence,
    divergences,
    log_probabilities,
    soft_divergence,
)
from tests.converter import networks
from tests.converter.reference import graph_of, inputs_of


def test_the_divergence_by_hand() -> None:
    p, q = np.log([[0.5, 0.5], [1.0 - 1e-12, 1e-12]]), np.log([[0.25, 0.75], [1.0 - 1e-12, 1e-12]])
    assert divergence(p, q) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0])
    assert not divergence(p, p).any()


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


def test_the_soft_divergence_by_hand() -> None:
    fp32, int8 = np.array([[4.0, 0.0], [0.0, 4.0]]), np.array([[4.0, 2.0], [0.0, 4.0]])
    p, q = np.exp([2.0, 0.0]), np.exp([2.0, 1.0])  # the deviation of 4 and 0 is 2
    p, q = p / p.sum(), q / q.sum()
    assert soft_divergence(fp32, int8) == pytest.approx([(p * np.log(p / q)).sum(), 0.0])


def test_sure_inputs_count_too() -> None:
    """At a temperature of 1 nothing is left of an error in a sure input."""
    fp32 = np.array([[60.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).repeat(50, axis=0)
    error = np.array([0.0, 3.0, 0.0])
    sure, doubtful = np.split(soft_divergence(fp32, fp32 + error), 2)
    assert sure.mean() > doubtful.mean() / 100
    hard = divergence(log_probabilities(fp32), log_probabilities(fp32 + error))
    assert hard[:50].mean() < 1e-9 * hard[50:].mean()


def test_it_does_not_hang_on_the_scale_of_the_logits() -> None:
    random = np.random.default_rng(0)
    fp32 = random.standard_normal((20, 7))
    int8 = fp32 + 0.1 * random.standard_normal((20, 7))
    assert soft_divergence(100 * fp32, 100 * int8) == pytest.approx(soft_divergence(fp32, int8))


@pytest.mark.slow
@torch.no_grad()
def test_ranges_that_clip_diverge_more() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual, 8)
    plan = place_quantizers(graph.onnx)
    wide, narrow = (dict.fromkeys(plan.observed, amax) for amax in (8.0, 0.05))
    found = divergences({"max": wide, "entropy": narrow}, graph, plan, x.numpy())
    assert 0 <= found["max"].mean() < found["entropy"].mean() / 10
    assert choose_calibrator(found) == "max"


def test_a_single_logit_is_two_classes() -> None:
    fp32, int8 = np.array([[2.0], [-2.0]]), np.array([[0.0], [-2.0]])
    both = soft_divergence(np.array([[0.0, 2.0], [0.0, -2.0]]), np.array([[0.0, 0.0], [0.0, -2.0]]))
    assert soft_divergence(fp32, int8) == pytest.approx(both)
    assert both[0] > 0
