"""On a machine with a GPU: real buffers of both kinds, and TensorRT against ONNX Runtime. Skipped elsewhere."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines.bench.compare import compare
from engines.bench.gpu_watch import GpuWatch
from engines.bench.nvml import gpu_state
from engines.errors import EngineUnavailableError
from engines.memory import open_device
from engines.memory.base import Device
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.options import BenchOptions, BuildOptions
from engines.tensorrt.engine import PlanEngine
from tests.engines.networks import Net, small_network

pytestmark = pytest.mark.gpu

SIZE = 1 << 16


@pytest.fixture(params=["pycuda", "torch"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    try:
        opened = open_device(request.param)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with opened:
        yield opened


def test_device_says_what_it_is(device: Device) -> None:
    assert isinstance(device, Device)
    assert device.gpu
    major, minor = map(int, device.compute_capability.split("."))
    assert major >= 5
    assert minor >= 0


def test_copies_come_back(device: Device) -> None:
    stream, buffer = device.stream(), device.allocate(SIZE * 4)
    sent, back = device.pinned((SIZE,), np.float32), device.pinned((SIZE,), np.float32)
    sent[:], back[:] = np.random.default_rng(0).random(SIZE, dtype=np.float32), 0
    device.copy_to_device(buffer, sent, stream)
    device.copy_to_host(back, buffer, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back, sent)
    constant = np.arange(SIZE, dtype=np.int32)
    constant.setflags(write=False)
    device.upload(buffer, constant)
    device.copy_to_host(back, buffer, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back.view(np.int32), constant)
    buffer.free()


def test_events_order_streams_and_tell_the_time(device: Device) -> None:
    first, second, buffer = device.stream(), device.stream(), device.allocate(SIZE * 4)
    sent, back = device.pinned((SIZE,), np.float32), device.pinned((SIZE,), np.float32)
    begin, copied, end = device.event(), device.event(), device.event()
    sent[:], back[:] = 3, 0
    begin.record(first)
    device.copy_to_device(buffer, sent, first)
    copied.record(first)
    second.wait(copied)
    device.copy_to_host(back, buffer, second)
    end.record(second)
    end.synchronize()
    np.testing.assert_array_equal(back, sent)
    assert 0 < copied.elapsed_ms(begin) <= end.elapsed_ms(begin) < 1000
    buffer.free()


def test_graphs_do_their_work_when_they_are_launched(device: Device) -> None:
    stream, buffer = device.stream(), device.allocate(SIZE * 4)
    sent, back = device.pinned((SIZE,), np.float32), device.pinned((SIZE,), np.float32)

    def work() -> None:
        device.copy_to_device(buffer, sent, stream)
        device.copy_to_host(back, buffer, stream)

    sent[:], back[:] = 1, 0
    work()
    stream.synchronize()
    back[:] = 0
    graph = device.capture(stream, work)
    stream.synchronize()
    assert not back.any()
    for value in (2, 3):
        sent[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert (back == value).all()
    graph.close()
    buffer.free()


def test_state_of_the_gpu(device: Device) -> None:
    state, reason = gpu_state(device.pci_bus_id)
    if state is None:
        pytest.skip(reason)
    assert state.gpu
    assert state.driver


def built(folder: Path, name: str, **options: Any) -> Path:
    """The small INT8 network as a plan, beside its ONNX file."""
    if importlib.util.find_spec("tensorrt") is None:
        pytest.skip("TensorRT is not installed")
    from engines.tensorrt.library import engine_from_onnx

    onnx.save(small_network(), folder / "net.onnx")
    batches = BuildOptions(min_batch=1, opt_batch=4, max_batch=8, **options)
    try:
        return engine_from_onnx(folder / "net.onnx", folder / name, batches)
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return built(tmp_path, "net.plan")


def test_plan_gives_the_logits_of_onnxruntime(plan: Path, device: Device) -> None:
    net = Net()
    with (
        PlanEngine(plan, device=device) as engine,
        OnnxRuntimeEngine(plan.with_suffix(".onnx"), threads=1) as reference,
    ):
        assert engine.name == "tensorrt"
        assert engine.input_shape == (3, 8, 8)
        for batch in (1, 8, 3):
            x = net.images(batch)
            expected = reference.run(x)
            # Codes may differ by one where rounding is at a border; the logits then move by a little.
            np.testing.assert_allclose(engine.run(x), expected, atol=0.05 * np.abs(expected).max())
        assert "Layers" in engine.inspector_json()
        times = engine.layer_times(4, iterations=3)
        assert times
        assert all(ms >= 0 for ms in times.values())


def test_half_precision_and_timing_cache(tmp_path: Path, device: Device) -> None:
    net, cache = Net(), tmp_path / "timing.cache"
    plans = [built(tmp_path, name, fp16=True, timing_cache=cache) for name in ("a.plan", "b.plan")]
    assert cache.stat().st_size > 0
    x = net.images(8)
    with OnnxRuntimeEngine(tmp_path / "net.onnx", threads=1) as reference:
        expected = reference.run(x)
    for path in plans:
        with PlanEngine(path, device=device) as engine:
            np.testing.assert_allclose(engine.run(x), expected, atol=0.05 * np.abs(expected).max())


def test_engines_of_one_process(plan: Path, device: Device, caplog: pytest.LogCaptureFixture) -> None:
    """An engine outlives one that was opened before it, and TensorRT has no word of warning for that."""
    x = Net().images(8)
    first, second = (PlanEngine(plan, device=device) for _ in range(2))
    with second:
        expected = first.run(x)
        first.close()
        again = built(plan.parent, "again.plan")
        np.testing.assert_allclose(second.run(x), expected, rtol=1e-5, atol=1e-5)
        with PlanEngine(again, device=device) as third:
            assert third.run(x).shape == expected.shape
    assert not [record for record in caplog.records if "logger passed" in record.message]


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [True, False])
def test_plan_is_measured(plan: Path, device: Device, cuda_graph: bool, transfers: bool) -> None:
    options = BenchOptions(
        batches=(1, 8), warmup_ms=20, duration_s=0.1, cuda_graph=cuda_graph, transfers=transfers, streams=2
    )
    with PlanEngine(plan, device=device) as engine, GpuWatch(device.pci_bus_id) as watch:
        results = compare([engine], options, measuring=watch.running)
    assert watch.after.state is not None or watch.after.reason
    for result in results:
        assert result.parts_ms is not None
        assert result.iterations >= 20
        assert result.images_per_s > 0
        assert result.parts_ms["gpu_compute"]["median"] > 0
        assert ("h2d" in result.parts_ms) is transfers
        sums = sum(result.parts_ms[part]["mean"] for part in result.parts_ms if part != "enqueue")
        assert result.latency_ms["median"] < 10 * sums
