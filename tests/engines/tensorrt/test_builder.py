"""What the three builders share: progress, Ctrl-C, the log, the timing cache and refusals."""

import logging
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from engines.errors import BuildError
from engines.options import BuildOptions
from engines.tensorrt.builder import PlanBuilder, plan_from_onnx
from tests.engines.networks import Net, small_network
from tests.tensorrt_double.builder import PHASES, Machine, plan_header, tensorrt_double

LOGGER = logging.getLogger("tests.engines.tensorrt.test_builder")


@pytest.fixture
def trt() -> SimpleNamespace:
    return tensorrt_double("10.16.1")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    onnx.save(small_network(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def built(trt: SimpleNamespace, network: Path, options: BuildOptions | None = None, **given: Any) -> Path:
    library = PlanBuilder(trt, f"TensorRT {trt.__version__}", LOGGER)  # type: ignore[arg-type]
    return plan_from_onnx(library, network, network.with_suffix(".plan"), options or BuildOptions(), **given)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_progress_is_told(trt: SimpleNamespace, network: Path) -> None:
    told: list[tuple[str, int, int]] = []
    built(trt, network, on_progress=lambda *step: told.append(step))
    expected = [
        (phase, step, steps)
        for phase, steps in PHASES.items()
        for step in [*range(steps + 1), steps]  # begin, each step, end
    ]
    assert told == expected


def test_progress_that_fails_ends_the_build(trt: SimpleNamespace, network: Path) -> None:
    def refuse(phase: str, step: int, steps: int) -> None:
        raise ZeroDivisionError(f"no bar for {phase}")

    with pytest.raises(ZeroDivisionError, match="no bar for Building engine"):
        built(trt, network, on_progress=refuse)
    assert trt.machine.plans == []
    assert files(network.parent) == {"net.onnx"}


def test_ctrl_c_stops_at_the_next_step(trt: SimpleNamespace, network: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int]] = []
    handled = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def interrupt(phase: str, step: int) -> None:
        steps.append((phase, step))
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            handled.wait(0.2)  # the main thread handles the signal meanwhile

    trt.machine.on_step = interrupt
    cache = tmp_path / "timing.cache"
    with pytest.raises(KeyboardInterrupt):
        built(trt, network, BuildOptions(timing_cache=cache), log_path=tmp_path / "build.log")
    assert steps == [("Building engine", 0), ("Building engine", 1)]
    assert files(network.parent) == {"net.onnx", "build.log"}
    assert "cancelled" in (tmp_path / "build.log").read_text()
    assert signal.getsignal(signal.SIGINT) is before


def test_second_ctrl_c_does_not_wait(trt: SimpleNamespace, network: Path) -> None:
    ended = threading.Event()
    entered = threading.Event()

    def hang(phase: str, step: int) -> None:
        if not entered.is_set():
            entered.set()
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.2)
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(20)

    trt.machine.on_step = hang
    with pytest.raises(KeyboardInterrupt):
        built(trt, network)
    assert not ended.is_set()
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "tensorrt-build":
            thread.join(20)
    assert files(network.parent) == {"net.onnx"}


def test_another_thread_can_build(trt: SimpleNamespace, network: Path) -> None:
    plans: list[Path] = []
    thread = threading.Thread(target=lambda: plans.append(built(trt, network)))
    thread.start()
    thread.join(20)
    assert plan_header(plans[0])["strongly_typed"]


def test_log_file_has_every_message_with_time_and_severity(
    trt: SimpleNamespace, network: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = network.with_name("logs") / "build.log"
    with caplog.at_level(logging.DEBUG, LOGGER.name):
        built(trt, network, log_path=log)
    (line,) = log.read_text().splitlines()
    assert line.endswith("INFO           Engine generation completed in 0.1 seconds.")
    assert line[:4].isdigit()
    assert line[10] == " "
    assert caplog.messages == ["Engine generation completed in 0.1 seconds."]
    assert caplog.records[0].levelno == logging.DEBUG


def test_log_file_stays_when_the_build_fails(network: Path) -> None:
    trt = tensorrt_double("11.0.0", Machine(fails=True))
    log = network.with_name("build.log")
    log.write_text("of an older build\n")
    with pytest.raises(BuildError, match=r"TensorRT 11\.0\.0 could not build .*for node conv4"):
        built(trt, network, log_path=log)
    assert files(network.parent) == {"net.onnx", "build.log"}
    (line,) = log.read_text().splitlines()
    assert "ERROR" in line
    assert "for node conv4" in line


def test_log_that_can_not_be_written_is_an_error(trt: SimpleNamespace, network: Path) -> None:
    with pytest.raises(BuildError, match="could not write the build log"):
        built(trt, network, log_path=network / "build.log")


def test_timing_cache_is_made_and_used_again(trt: SimpleNamespace, network: Path) -> None:
    options = BuildOptions(timing_cache=network.with_name("cache") / "a100.cache")
    assert options.timing_cache is not None
    for count in (1, 2):
        built(trt, network, options)
        assert options.timing_cache.read_bytes() == b"TIMINGS of TensorRT 10.16.1 on A100: %d" % count
    assert files(options.timing_cache.parent) == {"a100.cache"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"something else", r"is no timing cache: .*kMAGIC_TAG"),
        (b"TIMINGS of TensorRT 10.16.1 on T4: 7", "does not fit here: it was measured on another GPU"),
        (b"TIMINGS of TensorRT 10.13.3 on A100: 7", "another version of TensorRT"),
    ],
)
def test_broken_or_foreign_timing_cache_is_refused(
    trt: SimpleNamespace, network: Path, content: bytes, reason: str
) -> None:
    cache = network.with_name("timing.cache")
    cache.write_bytes(content)
    with pytest.raises(BuildError, match=rf"--timing-cache .*{reason}.*; delete it or name another file"):
        built(trt, network, BuildOptions(timing_cache=cache))
    assert cache.read_bytes() == content
    assert not network.with_suffix(".plan").exists()


def test_timing_cache_stays_as_it_was_when_the_build_fails(trt: SimpleNamespace, network: Path) -> None:
    cache = network.with_name("timing.cache")
    built(trt, network, BuildOptions(timing_cache=cache))
    before = cache.read_bytes()
    trt.machine.fails = True
    with pytest.raises(BuildError, match="could not build"):
        built(trt, network, BuildOptions(timing_cache=cache))
    assert cache.read_bytes() == before


def test_timing_cache_that_is_a_folder_is_refused(trt: SimpleNamespace, network: Path) -> None:
    with pytest.raises(BuildError, match="expected to read --timing-cache"):
        built(trt, network, BuildOptions(timing_cache=network.parent))


def test_fixed_batch_inside_of_the_bounds(trt: SimpleNamespace, tmp_path: Path) -> None:
    path = saved_with_shape(tmp_path, [16, 3, 8, 8])
    assert plan_header(built(trt, path))["profiles"] == []
    with pytest.raises(BuildError, match="fixed batch of 16, outside of --min-shapes 1 to --max-shapes 8"):
        built(trt, path, BuildOptions(max_batch=8))


def test_dynamic_image_size_is_refused(trt: SimpleNamespace, tmp_path: Path) -> None:
    path = saved_with_shape(tmp_path, ["batch", 3, "height", 8])
    with pytest.raises(BuildError, match=r"only the batch is dynamic, but .*input \(-1, 3, -1, 8\)"):
        built(trt, path)


def test_two_inputs_are_refused(trt: SimpleNamespace, tmp_path: Path) -> None:
    path = saved_with_shape(tmp_path, ["batch", 3, 8, 8])
    model = onnx.load(path)
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, ["batch", 1]))
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"one image input .* has input \(-1, 3, 8, 8\), mask \(-1, 1\)"):
        built(trt, path)


def test_no_file_and_no_network_are_refused(trt: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is missing"):
        built(trt, tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    for options in (BuildOptions(), BuildOptions(fp16=True)):
        with pytest.raises(BuildError, match=r"text\.onnx"):
            built(trt, tmp_path / "text.onnx", options)


def saved_with_shape(folder: Path, shape: list[int | str]) -> Path:
    net = Net()
    model = net.model(net.node("Relu", "input"))
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape))
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"
