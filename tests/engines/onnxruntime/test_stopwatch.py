"""Engines that ONNX Runtime's passes break take no part in the race."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.onnx_passes.graph import OnnxGraph
from engines.onnxruntime import stopwatch
from engines.onnxruntime.layers import Layers
from engines.onnxruntime.lowering import lower_qdq
from engines.onnxruntime.stopwatch import MachineStopwatch, is_near
from engines.onnxruntime.timing import Effort
from tests.engines.networks import small_network


def test_an_engine_that_fails_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not load, and one whose numbers are wrong, beside one that is right."""
    monkeypatch.setattr(stopwatch, "_RACE", Effort(runs=3, seconds=1.0))
    model = small_network()
    onnx.save(lower_qdq(model), tmp_path / "engine.onnx")
    graph = OnnxGraph(model)
    graph.prune()
    layers = Layers(graph)
    everything, first, second = layers.quantized, layers.quantized[:1], layers.quantized[1:2]
    with MachineStopwatch(model, layers.owners, tmp_path / "engine.onnx") as watch:
        watch._file(first).write_bytes(b"no network")
        known = stopwatch._outputs
        calls = []

        def spoilt(session: object, x: np.ndarray) -> list[np.ndarray]:
            found = known(session, x)
            calls.append(session)
            return [-value for value in found] if len(calls) == 7 else found  # of the fourth engine

        monkeypatch.setattr(stopwatch, "_outputs", spoilt)
        speeds = watch.speeds([everything, (), first, second])
    assert speeds[0] == {1: 1.0, 8: 1.0}
    assert speeds[1][1] > 0
    assert speeds[2] == speeds[3] == {1: 0.0, 8: 0.0}


@pytest.mark.parametrize(
    ("change", "near"),
    [(0.0, True), (0.01, True), (-2.0, False), (np.nan, False)],
    ids=["equal", "a border", "another sign", "no number"],
)
def test_only_roundings_are_near(change: float, near: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 10)).astype(np.float32)
    assert is_near([x * (1 + np.float32(change))], [x]) is near


def test_what_can_not_be_compared_is_left_out() -> None:
    classes, boxes = np.array([1, 2]), np.zeros((3, 4), np.float32)
    assert is_near([classes + 1, boxes], [classes, boxes[:2]])
