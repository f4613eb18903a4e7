"""Statistics of the benchmark, on a clock that the test turns."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engines.bench.compare import compare, percentile, ratios
from engines.measurement import Throughput, summary
from engines.options import BenchOptions, OptionError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Takes ``seconds`` in turn for each query."""

    precision = "fp32"
    input_shape = (3, 4, 4)
    output_names = ("scores", "boxes")

    def __init__(self, name: str, clock: Clock, *seconds: float, log: list[str] | None = None) -> None:
        self.name, self._clock, self._seconds, self._log = name, clock, seconds, log
        self.inputs: list[np.ndarray] = []

    def run(self, x: np.ndarray) -> np.ndarray:
        raise AssertionError("all outputs are measured")

    def infer(self, x: np.ndarray) -> dict[str, np.ndarray]:
        self._clock.now += self._seconds[len(self.inputs) % len(self._seconds)]
        self.inputs.append(x)
        if self._log is not None:
            self._log.append(self.name)
        return {name: np.zeros((len(x), 2), np.float32) for name in self.output_names}

    def close(self) -> None:
        pass

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def test_nearest_rank_percentile() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50.0, 90.0, 95.0, 99.0, 0.1)] == [50, 90, 95, 99, 1]
    assert percentile([7.0], 99.0) == 7.0


def test_percentile_has_no_rounding_of_its_own() -> None:
    """99.9 / 100 * 1000 is a little over 999, and 7 / 100 * 100 over 7."""
    values = [float(value) for value in range(1, 1001)]
    assert percentile(values, 99.9) == 999.0
    assert percentile(values[:100], 7.0) == 7.0


def test_summary_by_hand() -> None:
    assert summary([4.0, 1.0, 3.0, 2.0], [75.0]) == {
        "min": 1.0, "max": 4.0, "mean": 2.5, "median": 2.5, "p75": 3.0,
    }  # fmt: skip


def test_report_leaves_out_what_a_cpu_does_not_measure() -> None:
    measured = Throughput("a", "int8", 1, 10.0, {"median": 100.0}, 10)
    assert list(measured.to_json()) == [
        "engine", "precision", "batch", "images_per_s", "latency_ms", "iterations",
    ]  # fmt: skip
    on_gpu = replace(measured, parts_ms={"enqueue": {"min": 0.1}}, warnings=())
    assert on_gpu.to_json()["parts_ms"] == {"enqueue": {"min": 0.1}}
    assert on_gpu.to_json()["warnings"] == ()


class Timed(FakeEngine):
    """An engine with queries of its own, which note their calls."""

    def __init__(self, calls: list[object]) -> None:
        super().__init__("timed", Clock(), 1.0)
        self.calls = calls

    def queries(self, batch: int, options: BenchOptions, clock: Any) -> "Timed":
        self.calls.append(("queries", batch))
        return self

    def warm_up(self, seconds: float) -> None:
        self.calls.append(("warm_up", seconds))

    def measure(self, seconds: float, iterations: int) -> None:
        self.calls.append(("measure", round(seconds, 3), iterations))

    def result(self, percentiles: Sequence[float]) -> Throughput:
        self.calls.append("result")
        return Throughput("timed", "int8", 2, 10.0, {"median": 100.0}, 10)

    def close(self) -> None:
        self.calls.append("close")


def test_engine_that_times_itself() -> None:
    calls = list[object]()
    options = BenchOptions(batches=(2,), duration_s=3.0, rounds=2, min_iterations=9)
    (result,) = compare([Timed(calls)], options)
    assert result.engine == "timed"
    assert calls == [
        ("queries", 2), ("warm_up", 0.2), ("measure", 1.5, 5), ("measure", 1.5, 5), "result", "close",
    ]  # fmt: skip


def test_throughput_is_images_by_wall_time() -> None:
    clock = Clock()
    engine = FakeEngine("a", clock, 0.0625, 0.1875)
    options = BenchOptions(batches=(4,), duration_s=3.0, rounds=1, warmup_ms=250.0)
    (result,) = compare([engine], options, clock=clock)
    assert result.iterations == 24  # 3 s of queries that take 125 ms on average
    assert result.images_per_s == pytest.approx(4 / 0.125)
    assert result.latency_ms == {"median": 125.0, "p90": 187.5, "p95": 187.5, "p99": 187.5}
    assert len(engine.inputs) == 24 + 2  # and 250 ms of warm-up
    assert engine.inputs[0].shape == (4, 3, 4, 4)


def test_slow_engine_still_makes_ten_queries() -> None:
    clock = Clock()
    (result,) = compare([FakeEngine("slow", clock, 60.0)], BenchOptions(rounds=1), clock=clock)
    assert result.iterations == 10


def test_engines_take_turns() -> None:
    clock, log = Clock(), list[str]()
    engines = [FakeEngine("a", clock, 0.5, log=log), FakeEngine("b", clock, 0.25, log=log)]
    options = BenchOptions(duration_s=3.0, rounds=3, min_iterations=1, warmup_ms=0.0)
    results = compare(engines, options, clock=clock)
    assert "".join(log) == "ab" + "aabbbb" * 3
    assert ratios(results, 2) == [1.0, 2.0]


def test_ratio_is_to_the_first_at_the_same_batch() -> None:
    clock = Clock()
    engines = [FakeEngine("a", clock, 0.5), FakeEngine("b", clock, 0.125)]
    results = compare(engines, BenchOptions(batches=(1, 8)), clock=clock)
    assert [(result.engine, result.batch) for result in results] == [("a", 1), ("b", 1), ("a", 8), ("b", 8)]
    assert ratios(results, 2) == [1.0, 4.0, 1.0, 4.0]


def test_input_depends_on_the_seed_alone() -> None:
    clock = Clock()
    engines = [FakeEngine(name, clock, 1.0) for name in "abc"]
    for engine, seed in zip(engines, (3, 3, 4), strict=True):
        compare([engine], BenchOptions(seed=seed), clock=clock)
    first, second, third = (engine.inputs[0] for engine in engines)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"batches": (0,)}, "--batch"),
        ({"batches": ()}, "--batch"),
        ({"warmup_ms": -1.0}, "--warmup-ms"),
        ({"duration_s": 0.0}, "--duration-s"),
        ({"duration_s": float("nan")}, "--duration-s"),
        ({"percentiles": (100.0,)}, "--percentile"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_options_name_the_flag(given: dict[str, Any], flag: str) -> None:
    with pytest.raises(OptionError, match=flag):
        BenchOptions(**given)
