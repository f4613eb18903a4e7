"""Choosing a calibrator by what its INT8 network says."""

import math

import numpy as np
import pytest
import torch

from converter.candidate import PART
from converter.choice import chosen, divergence, divergences, log_probabilities
from converter.placement import plan_from_onnx
from converter.verify import in_parts
from engines.onnxruntime import OnnxRuntimeEngine
from tests.converter import networks
from tests.converter.reference import graph_of, inputs_of


def test_the_divergence_by_hand() -> None:
    p, q = np.log([[0.5, 0.5], [1.0 - 1e-12, 1e-12]]), np.log([[0.25, 0.75], [1.0 - 1e-12, 1e-12]])
    assert divergence(p, q) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0])
    assert not divergence(p, p).any()


COMMON = np.random.default_rng(0).gamma(0.5, 0.2, 128)
"""What all calibrators share: far more than they differ by."""


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        ({"entropy": COMMON, "max": 0.9 * COMMON, "mse": 0.95 * COMMON}, "max"),  # better on every input
        ({"entropy": COMMON, "max": np.roll(COMMON, 1) - 1e-3}, "entropy"),  # better by chance
        ({"entropy": COMMON / 200, "max": COMMON / 400}, "entropy"),  # both as good as FP32
        ({"entropy": COMMON, "max": 2 * COMMON}, "entropy"),
        ({"entropy": COMMON, "max": COMMON}, "entropy"),
    ],
)
def test_entropy_stays_unless_another_is_surely_better(found: dict, taken: str) -> None:
    assert chosen(found) == taken


@torch.no_grad()
def test_ranges_that_clip_diverge_more() -> None:
    graph, x = graph_of(networks.Residual), inputs_of(networks.Residual, 8)
    plan = plan_from_onnx(graph.onnx)
    wide, narrow = (dict.fromkeys(plan.observed, amax) for amax in (8.0, 0.05))
    found = divergences({"max": wide, "entropy": narrow}, graph, plan, x.numpy())
    assert 0 <= found["max"].mean() < found["entropy"].mean() / 10
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
    with OnnxRuntimeEngine(tmp_path / "one.onnx") as engine:
        found = np.exp(log_probabilities(in_parts(engine.run, 1, PART)(logits)))
    assert found[:2] == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert len(found) == 40
