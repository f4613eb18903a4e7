"""The rank correlation by hand, and the pieces that are compared."""

import pytest
from sensitivity import mean_divergence, one_at_a_time, pieces_of, spearman

from converter.trust.sensitivity import sensitivity_from_graph
from converter.trust.task.classes import Classes
from tests.converter.networks import Residual
from tests.converter.reference import graph_of, inputs_of, planned


def test_rank_correlation_by_hand() -> None:
    assert spearman([1.0, 20.0, 3.0], [0.1, 0.3, 0.2]) == pytest.approx(1)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert spearman([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(1 - 6 * 4 / (4 * 15))


@pytest.mark.slow
def test_pieces_are_the_quantizers_and_the_layers() -> None:
    graph, x = graph_of(Residual), inputs_of(Residual)
    plan, amax = planned(graph, x)
    found = sensitivity_from_graph(graph, plan, amax, Classes(5), x, batch_size=8, seed=0)
    tensors, layers = (dict(pieces_of(found, kind)) for kind in ("tensors", "layers"))
    assert len(tensors) == len(plan.activations) + len(plan.weights)
    assert {part.consumer for part in tensors["activation max_pool2d"]} == {"conv2d_1", "add_60"}
    assert sorted(part.kind for part in layers["conv2d_1"]) == ["activation", "weight"]
    measured = one_at_a_time(graph, plan, amax, x, 8, [[], list(found.parts)])
    assert measured[0] == 0
    assert measured[1] > 0


def test_divergence_of_equal_probabilities_is_zero() -> None:
    p = inputs_of(Residual).flatten(1).double().log_softmax(1)
    assert mean_divergence(p, p) == 0
