"""Plans of TensorRT for RTX are built without a GPU."""

import logging
import platform
from pathlib import Path

import onnx
import pytest

from engines import tensorrt_rtx
from engines.errors import BuildError, EngineUnavailableError
from engines.options import BuildOptions, OptionError
from engines.tensorrt_rtx import engine_from_onnx
from tests.engines.networks import Net, small_network

needs_wheel = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorRT for RTX has wheels for x86-64 only"
)


@needs_wheel
def test_plan_is_built(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.save(small_network(), tmp_path / "qdq.onnx")
    with caplog.at_level(logging.DEBUG, logger="engines.tensorrt_rtx"):
        plan = engine_from_onnx(tmp_path / "qdq.onnx", tmp_path / "out" / "net.plan")
    assert plan.stat().st_size > 1000
    assert [path.name for path in plan.parent.iterdir()] == ["net.plan"]
    assert any("Engine generation completed" in record.message for record in caplog.records)
    assert capfd.readouterr() == ("", "")


@needs_wheel
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_int8_plan_of_resnet18_is_three_times_smaller(tmp_path: Path) -> None:
    import torchvision

    from calibrators.inputs import InputSpec
    from converter.graph import graph_from_model
    from converter.placement import plan_from_onnx
    from converter.qdq import qdq_from_onnx

    graph = graph_from_model(torchvision.models.resnet18(weights=None), InputSpec((3, 224, 224)))
    plan = plan_from_onnx(graph.onnx)
    onnx.save(graph.onnx, tmp_path / "fp32.onnx")
    onnx.save(qdq_from_onnx(graph.onnx, plan, dict.fromkeys(plan.observed, 4.0)), tmp_path / "int8.onnx")
    fp32, int8 = (
        engine_from_onnx(tmp_path / f"{name}.onnx", tmp_path / f"{name}.plan").stat().st_size
        for name in ("fp32", "int8")
    )
    assert fp32 > 3 * int8


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


def test_running_needs_a_gpu() -> None:
    with pytest.raises(EngineUnavailableError, match="GPU"):
        tensorrt_rtx.run("net.plan")
