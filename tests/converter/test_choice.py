"""Choosing a calibrator by what its INT8 network says."""

import math

import numpy as np
import pytest
import torch

from converter.choice import chosen, divergences, log_probabilities, mean_divergence
from converter.placement import plan_from_onnx
from tests.converter import networks
from tests.converter.reference import graph_of, inputs_of


def test_the_divergence_by_hand() -> None:
    p, q = np.log([[0.5, 0.5], [1.0 - 1e-12, 1e-12]]), np.log([[0.25, 0.75], [1.0 - 1e-12, 1e-12]])
    assert mean_divergence(p, q) == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2)
    assert mean_divergence(p, p) == 0


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        ({"entropy": 0.080, "max": 0.061, "mse": 0.063}, "max"),
        ({"entropy": 0.080, "max": 0.070, "mse": 0.075}, "entropy"),  # not clearly better
        ({"entropy": 0.001, "max": 0.0001}, "entropy"),  # both as good as FP32
        ({"entropy": 0.010, "max": 0.020}, "entropy"),
    ],
)
def test_entropy_stays_unless_another_is_clearly_better(found: dict, taken: str) -> None:
    assert chosen(found) == taken


@torch.no_grad()
def test_ranges_that_clip_diverge_more() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual, 8)
    plan = plan_from_onnx(graph.onnx)
    wide, narrow = (dict.fromkeys(plan.observed, amax) for amax in (8.0, 0.05))
    found = divergences({"max": wide, "entropy": narrow}, graph, plan, x.numpy())
    assert 0 <= found["max"] < found["entropy"] / 10
    assert chosen(found) == "max"


def test_a_single_logit_is_two_classes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "one",
        [value("x", TensorProto.FLOAT, ["n", 1, 1, 1])],
        [value("y", TensorProto.FLOAT, ["n", 1])],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "one.onnx")
    logits = np.zeros((40, 1, 1, 1), np.float32)  # more than one part
    logits[1] = math.log(3)
    found = np.exp(log_probabilities(tmp_path / "one.onnx", logits))
    assert found[:2] == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert len(found) == 40
