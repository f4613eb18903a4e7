"""Plans of TensorRT for RTX are built without a GPU."""

import gc
import logging
import os
import platform
import signal
import weakref
from pathlib import Path

import onnx
import pytest

from engines.errors import BuildError, EngineUnavailableError
from engines.options import BuildOptions, OptionError
from engines.tensorrt import rtx as tensorrt_rtx
from engines.tensorrt.build_log import new_logger
from engines.tensorrt.rtx import engine_from_onnx
from tests.engines.networks import Net, small_network

needs_wheel = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT for RTX has wheels for x86-64 only"
)


@needs_wheel
def test_plan_is_built(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.save(small_network(), tmp_path / "qdq.onnx")
    with caplog.at_level(logging.DEBUG, logger="engines.tensorrt.rtx"):
        plan = engine_from_onnx(tmp_path / "qdq.onnx", tmp_path / "out" / "net.plan")
    assert plan.stat().st_size > 1000
    assert [path.name for path in plan.parent.iterdir()] == ["net.plan"]
    assert any("Engine generation completed" in record.message for record in caplog.records)
    assert capfd.readouterr() == ("", "")


@needs_wheel
def test_second_logger_is_no_news_and_the_first_outlives_its_builder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RTX keeps the address of the first logger as long as any builder lives, and warns of a second one."""
    trt, logger = tensorrt_rtx.load_tensorrt_rtx(), logging.getLogger("tests.first")
    first = trt.Builder(log := new_logger(trt, logger))
    ended = weakref.ref(log)
    del log
    other = trt.Builder(new_logger(trt, logger))
    del first
    gc.collect()
    assert ended() is not None
    onnx.save(small_network(), tmp_path / "net.onnx")
    engine_from_onnx(tmp_path / "net.onnx", tmp_path / "net.plan", log_path=tmp_path / "build.log")
    assert "differs from one already" in (tmp_path / "build.log").read_text()
    assert "Engine generation completed" in (tmp_path / "build.log").read_text()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    del other


@pytest.mark.slow
@needs_wheel
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_int8_plan_of_resnet18_is_three_times_smaller(tmp_path: Path) -> None:
    import torchvision

    from calibrators.data.input_spec import InputSpec
    from converter.graph.capture import graph_from_model
    from converter.quantize.placement import place_quantizers
    from converter.quantize.qdq import qdq_from_onnx

    graph = graph_from_model(torchvision.models.resnet18(weights=None), InputSpec((3, 224, 224)))
    plan = place_quantizers(graph.onnx)
    onnx.save(graph.onnx, tmp_path / "fp32.onnx")
    onnx.save(qdq_from_onnx(graph.onnx, plan, dict.fromkeys(plan.observed, 4.0)), tmp_path / "int8.onnx")
    fp32, int8 = (
        engine_from_onnx(tmp_path / f"{name}.onnx", tmp_path / f"{name}.plan").stat().st_size
        for name in ("fp32", "int8")
    )
    assert fp32 > 3 * int8


@needs_wheel
def test_half_precision_plan_is_smaller(tmp_path: Path) -> None:
    """A network of weights: with half of the bytes for each, the plan shrinks accordingly."""
    net = Net((64, 4, 4))
    weights = [net.constant(net.rng.normal(0, 0.1, (512, 64, 3, 3)).astype("float32"))]
    weights.append(net.constant(net.rng.normal(0, 0.1, (64, 512, 3, 3)).astype("float32")))
    x = "input"
    for weight in weights:
        x = net.node("Relu", net.node("Conv", x, weight, kernel_shape=[3, 3], pads=[1] * 4))
    onnx.save(net.model(x), tmp_path / "net.onnx")
    fp32, fp16 = (
        engine_from_onnx(tmp_path / "net.onnx", tmp_path / f"{fp16}.plan", BuildOptions(("8.9",), fp16=fp16))
        .stat()
        .st_size
        for fp16 in (False, True)
    )
    weights_bytes = 2 * 512 * 64 * 9 * 4
    assert fp32 - fp16 == pytest.approx(weights_bytes / 2, rel=0.1)


@needs_wheel
def test_progress_and_log_file(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "net.onnx")
    told: list[tuple[str, int, int]] = []
    engine_from_onnx(
        tmp_path / "net.onnx",
        tmp_path / "net.plan",
        log_path=tmp_path / "build.log",
        on_progress=lambda *step: told.append(step),
    )
    assert told[0][:2] == ("Building engine", 0)
    assert told[-1][0] == "Building engine"
    assert told[-1][1] == told[-1][2]
    assert all(0 <= done <= steps for _, done, steps in told)
    log = (tmp_path / "build.log").read_text()
    assert " VERBOSE " in log
    assert "Engine generation completed" in log


@pytest.mark.slow
@needs_wheel
def test_ctrl_c_ends_a_build(tmp_path: Path) -> None:
    """A signal in the middle: TensorRT comes back by itself before the build would be done."""
    net = Net((16, 32, 32), exact=False)
    x = net.quantized("input")
    for _ in range(60):
        x = net.quantized(net.node("Relu", net.conv(x, 16)))
    onnx.save(net.model(x), tmp_path / "net.onnx")
    told: list[tuple[str, int, int]] = []

    def interrupt(*step: object) -> None:
        told.append(step)  # type: ignore[arg-type]
        if len(told) == 20:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(
            tmp_path / "net.onnx",
            tmp_path / "net.plan",
            log_path=tmp_path / "build.log",
            on_progress=interrupt,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build.log", "net.onnx"]
    interrupted = len(told)
    told.clear()
    engine_from_onnx(tmp_path / "net.onnx", tmp_path / "net.plan", on_progress=lambda *s: told.append(s))
    assert interrupted < len(told)


@needs_wheel
def test_workspace_and_level_are_taken(tmp_path: Path) -> None:
    onnx.save(small_network(), tmp_path / "net.onnx")
    options = BuildOptions(workspace_mib=256, builder_level=2)
    assert engine_from_onnx(tmp_path / "net.onnx", tmp_path / "net.plan", options).stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (BuildOptions(timing_cache=Path("t.cache")), "--timing-cache"),
        (BuildOptions(hardware_compatible="ampere+"), "--hardware-compatible"),
        (BuildOptions(version_compatible=True), "--version-compatible"),
        (BuildOptions(refit=True), "--refit"),
    ],
)
def test_options_that_it_lacks_are_refused(tmp_path: Path, options: BuildOptions, flag: str) -> None:
    onnx.save(small_network(), tmp_path / "net.onnx")
    with pytest.raises(OptionError, match=f"TensorRT for RTX does not support {flag}: .*--engine tensorrt"):
        engine_from_onnx(tmp_path / "net.onnx", tmp_path / "net.plan", options)
    assert not (tmp_path / "net.plan").exists()


@needs_wheel
def test_refused_node_is_named(tmp_path: Path) -> None:
    net = Net()
    model = net.model(net.node("Relu", "input"))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Unheard", "example.org"
    model.graph.node[0].name = "odd_one"
    model.opset_import.append(onnx.helper.make_opsetid("example.org", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(BuildError, match=r"odd_one.*Unheard"):
        engine_from_onnx(tmp_path / "odd.onnx", tmp_path / "odd.plan")
    assert not (tmp_path / "odd.plan").exists()


@needs_wheel
def test_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(BuildError, match=r"can't read .*text\.onnx"):
        engine_from_onnx(tmp_path / "text.onnx", tmp_path / "text.plan")
    with pytest.raises(BuildError, match="missing"):
        engine_from_onnx(tmp_path / "absent.onnx", tmp_path / "text.plan")


@pytest.mark.parametrize("capability", ["9.0", "10.0", "7.0", "8.60", "x"])
def test_unsupported_capability_is_refused(capability: str) -> None:
    with pytest.raises(OptionError, match=r"--compute-capability .* is not supported"):
        BuildOptions(compute_capabilities=(capability,))


def test_missing_package_names_the_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineUnavailableError, match=r'pip install "zscgan-convert\[rtx\]"'):
        tensorrt_rtx.load_tensorrt_rtx()
