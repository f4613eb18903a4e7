"""trtexec's measuring on a GPU whose times are known: copies of 1 and 2 ms, computing of 4 ms, 0.5 ms to enqueue."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.bench.compare import compare
from engines.errors import BuildError
from engines.measurement import Throughput
from engines.options import BenchOptions
from engines.tensorrt.engine import PlanEngine
from engines.tensorrt.queries import rules_followed
from tests.engines.networks import Net, detector, small_network
from tests.tensorrt_double.memory import HostDevice
from tests.tensorrt_double.runtime import plan_of, runtime_double


class Bench:
    """A plan of the small network on the double of a GPU."""

    def __init__(self, folder: Path, trt: SimpleNamespace) -> None:
        self.trt, self.path = trt, folder / "net.plan"
        self.path.write_bytes(plan_of(small_network()))
        self.device = HostDevice()

    def measure(self, **given: Any) -> Throughput:
        """10 queries (or ``min_iterations``) in one round, without warm-up, at batch 2."""
        defaults = {"batches": (2,), "warmup_ms": 0.0, "duration_s": 1e-9, "rounds": 1}
        options = BenchOptions(**(defaults | given))
        with PlanEngine(self.path, device=self.device) as engine:
            (result,) = compare([engine], options, clock=self.device.clock)
        assert self.device.leaks == 0
        assert not self.device.open_graphs
        return result


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    trt = runtime_double()
    monkeypatch.setattr("engines.tensorrt.library.load_tensorrt", lambda: trt)
    return Bench(tmp_path, trt)


def steady(value: float) -> dict[str, float]:
    return dict.fromkeys(("min", "max", "mean", "median", "p90", "p95", "p99"), value)


def test_parts_and_overlap(bench: Bench) -> None:
    result = bench.measure()
    assert (result.engine, result.precision, result.batch, result.iterations) == ("tensorrt", "int8", 2, 10)
    assert result.parts_ms is not None
    assert list(result.parts_ms) == ["enqueue", "h2d", "gpu_compute", "d2h"]
    for part, ms in (("enqueue", 0.5), ("h2d", 1.0), ("gpu_compute", 4.0), ("d2h", 2.0)):
        assert result.parts_ms[part] == pytest.approx(steady(ms))
    assert result.latency_ms == pytest.approx({"median": 7.0, "p90": 7.0, "p95": 7.0, "p99": 7.0})
    # Copies hide behind computing: the first H2D, ten computings, the last D2H.
    assert result.images_per_s == pytest.approx(10 * 2 / 0.043)
    assert result.warnings == ()


def test_without_transfers(bench: Bench) -> None:
    result = bench.measure(transfers=False)
    assert result.parts_ms is not None
    assert list(result.parts_ms) == ["enqueue", "gpu_compute"]
    assert result.latency_ms["median"] == pytest.approx(4.0)
    # The first computing waits for the host, the others for the one before.
    assert result.images_per_s == pytest.approx(10 * 2 / 0.0405)


def test_cuda_graph(bench: Bench) -> None:
    result = bench.measure(cuda_graph=True)
    assert bench.device.launches == 11  # a warm-up query and ten
    assert result.parts_ms is not None
    assert result.parts_ms["enqueue"]["median"] == 0.0
    assert result.parts_ms["gpu_compute"] == pytest.approx(steady(4.0))


@pytest.mark.parametrize("given", [{}, {"cuda_graph": True}, {"transfers": False}, {"streams": 2}])
def test_many_outputs(bench: Bench, given: dict[str, Any]) -> None:
    """Each of the four outputs is a copy of 2 ms, and they are copied one after the other."""
    net = Net()
    bench.path.write_bytes(plan_of(net.model(*detector(net))))
    result = bench.measure(**given)
    assert result.parts_ms is not None
    assert result.parts_ms["gpu_compute"]["min"] == pytest.approx(4.0)
    if given.get("transfers", True):
        assert result.parts_ms["d2h"]["min"] == pytest.approx(8.0)


def test_cuda_graph_that_can_not_be_had_is_an_error(bench: Bench) -> None:
    bench.trt.behaviour.capturable = False
    with pytest.raises(BuildError, match=r"can't run as a CUDA graph: .*leave --cuda-graph out"):
        bench.measure(cuda_graph=True)
    assert bench.device.leaks == 0


def test_streams_have_queries_of_their_own(bench: Bench) -> None:
    result = bench.measure(streams=3, min_iterations=4)
    assert result.iterations == 12
    # One GPU computes one query at a time, whatever the streams: 12 computings between two copies.
    assert result.images_per_s == pytest.approx(12 * 2 / 0.051)
    assert bench.trt.behaviour.ended == ["context"] * 4 + ["engine", "runtime"]


def test_more_streams_than_there_are(bench: Bench) -> None:
    with pytest.raises(BuildError, match="--streams of at most 10 "):
        bench.measure(streams=11)


def test_duration_counts_on_the_gpu(bench: Bench) -> None:
    result = bench.measure(duration_s=0.100, min_iterations=1)
    # 25 computings end at 101 ms and the last D2H at 103: the loop sees a query end at 4n + 3 >= 100 and has
    # by then one more under way.
    assert result.iterations == 26


def test_rounds_add_up(bench: Bench) -> None:
    result = bench.measure(rounds=2, min_iterations=10, warmup_ms=20.0)
    assert result.iterations == 10
    assert result.images_per_s == pytest.approx(10 * 2 / (2 * 0.023))


def test_engines_take_turns(bench: Bench) -> None:
    options = BenchOptions(batches=(1, 8), warmup_ms=0.0, duration_s=1e-9, rounds=2)
    with (
        PlanEngine(bench.path, device=bench.device) as one,
        PlanEngine(bench.path, device=bench.device) as two,
    ):
        results = compare([one, two], options, clock=bench.device.clock)
    assert [result.batch for result in results] == [1, 1, 8, 8]
    assert len({round(result.latency_ms["median"], 6) for result in results}) == 1
    assert bench.device.leaks == 0


def test_batch_outside_of_the_profile(bench: Bench) -> None:
    with pytest.raises(BuildError, match="a batch of 1 to 8"):
        bench.measure(batches=(16,))


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"enqueue_ms": 20.0}, "enqueueing takes over 0.8"),
        ({"h2d_ms": 4.0}, "input to the GPU may be the limit"),
        ({"d2h_ms": 4.5}, "outputs from the GPU may be the limit"),
    ],
)
def test_what_limits_the_figures_is_told(bench: Bench, times: dict[str, float], words: str) -> None:
    for name, value in times.items():
        setattr(bench.trt.behaviour if name == "enqueue_ms" else bench.device, name, value)
    warnings = bench.measure().warnings
    assert warnings is not None
    assert [warning for warning in warnings if words in warning.text]


def test_unsteady_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing of 4 and 4.4 ms in turn: 0.2 ms around 4.2 is a variation of 4.8 %."""
    behaviour = bench.trt.behaviour
    times = {True: 4.0, False: 4.4}

    class Changing(type(behaviour)):  # type: ignore[misc]
        @property
        def compute_ms(self) -> float:
            self.turn = not self.turn
            return times[self.turn]

        @compute_ms.setter
        def compute_ms(self, value: float) -> None:
            self.turn = True

    bench.trt.behaviour = Changing()
    warnings = bench.measure().warnings
    assert warnings is not None
    assert "varies by 4.8 %" in warnings[0].text


@pytest.mark.parametrize(
    ("graph", "transfers", "words"),
    [
        (False, True, "with transfers, without CUDA graph: the defaults of trtexec 10"),
        (
            True,
            False,
            "without transfers, as one CUDA graph: the defaults of trtexec 11, which waits by spinning, too",
        ),
        (True, True, "with transfers, as one CUDA graph: neither the defaults of trtexec 10 nor those of 11"),
    ],
)
def test_rules_are_named(graph: bool, transfers: bool, words: str) -> None:
    assert rules_followed(BenchOptions(cuda_graph=graph, transfers=transfers)) == words
