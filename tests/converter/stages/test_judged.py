"""Networks whose end chooses, the whole way: what is written has the end, and what is measured is said."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from converter.cli.convert import command
from converter.workspace import CPU_ENGINE, FP32_ONNX, INT8_ONNX, TENSORRT_ENGINE
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter.digits import QUICK, quick_conversions
from tests.converter.tails import SIZE, file
from tests.tensorrt_double.builder import plan_model
from tests.tensorrt_double.machine import machine_with_tensorrt

FLAGS = [*QUICK, "--preset", "unit", "--calib-samples", "8"]
BEFORE_THE_END = "agreement and accuracy are measured before the graph's end"

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        maps = self.last(self.bn(self.conv(x)).relu())
        return {result}
"""


def convert(*flags: str, output: Path) -> tuple[str, dict]:
    with quick_conversions():
        result = CliRunner().invoke(command, [*flags, *FLAGS, "-o", str(output)])
    assert result.exit_code == 0, result.output
    return result.stderr, json.loads((output / "report.json").read_text())


def outputs_of(path: Path, batch: int = 2) -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).random((batch, 3, SIZE, SIZE), dtype=np.float32)
    with OnnxRuntimeEngine(path) as engine:
        return dict(engine.infer(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "operator", "by_engine"),
    [
        ("argmax", "mask", "ArgMax", True),
        ("topk", "classes", "TopK", False),
        ("nms", "any", "NonMaxSuppression", False),
        ("raw and nms", "any", "NonMaxSuppression", True),
    ],
)
def test_an_onnx_file_keeps_its_end(
    name: str, task: str, operator: str, by_engine: bool, tmp_path: Path
) -> None:
    path, out = file(tmp_path, name), tmp_path / "out"
    said, report = convert(str(path), output=out)
    assert f"({operator}) stays as it is" in said
    assert report["model"]["task"] == task
    assert (BEFORE_THE_END in said) is not by_engine
    assert report["agreement"]["percent"] > 50
    original = onnx.load(path)
    for written in (FP32_ONNX, INT8_ONNX, CPU_ENGINE):
        model = onnx.load(out / written)
        assert [value.name for value in model.graph.output] == [v.name for v in original.graph.output]
        assert operator in {each.op_type for each in model.graph.node}
        assert outputs_of(out / written).keys() == outputs_of(path).keys()
    for found, expected in zip(outputs_of(out / FP32_ONNX).values(), outputs_of(path).values(), strict=True):
        assert np.allclose(found, expected, atol=1e-4)
    assert any(each.op_type == "QuantizeLinear" for each in onnx.load(out / INT8_ONNX).graph.node)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("result", "task"), [("maps.argmax(1)", "mask"), ("maps.mean((2, 3)).argmax(1)", "classes")]
)
def test_a_module_keeps_its_argmax(result: str, task: str, tmp_path: Path) -> None:
    import torch

    source = tmp_path / "net.py"
    source.write_text(MODULE.format(result=result))
    scope: dict = {}
    exec(source.read_text(), scope)
    torch.manual_seed(0)
    torch.save(scope["Net"]().state_dict(), tmp_path / "net.pth")
    flags = [str(tmp_path / "net.pth"), "--arch", f"{source}:Net", "--input-shape", f"3x{SIZE}x{SIZE}"]
    said, report = convert(*flags, output=tmp_path / "out")
    assert "(ArgMax) stays as it is" in said
    assert report["model"]["task"] == task
    (found,) = outputs_of(tmp_path / "out" / CPU_ENGINE).values()
    assert found.dtype == np.int64
    assert found.shape == ((2, SIZE, SIZE) if task == "mask" else (2,))


@pytest.mark.slow
def test_a_plugin_of_tensorrt_stays_in_the_files_and_not_in_the_engine_of_onnxruntime(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said, _ = convert(str(file(tmp_path, "plugin")), output=out)
    assert f"ONNX Runtime doesn't have EfficientNMS_TRT: {CPU_ENGINE} ends before it" in said
    for written in (FP32_ONNX, INT8_ONNX):
        assert onnx.load(out / written).graph.node[-1].domain == "TRT"
    assert set(outputs_of(out / CPU_ENGINE)) == {"boxes", "scores"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch"), [("argmax", None), ("nms", 1)])
def test_a_fixed_batch_of_one_is_freed_where_the_end_allows_it(
    name: str, batch: int | None, tmp_path: Path
) -> None:
    said, _ = convert(str(file(tmp_path, name, batch=1)), output=tmp_path / "out")
    assert ("converts sample by sample" in said) is (batch == 1)
    with OnnxRuntimeEngine(tmp_path / "out" / CPU_ENGINE) as engine:
        assert engine.fixed_batch == batch


@pytest.mark.slow
def test_a_plan_whose_outputs_are_sized_by_the_image_is_built_whole_and_measured_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with_tensorrt(monkeypatch)
    out = tmp_path / "out"
    _, report = convert(str(file(tmp_path, "nms")), "--engine", "tensorrt", output=out)
    assert "outputs-sized-by-values" in [warning["code"] for warning in report["warning_details"]]
    assert {row["engine"] for row in report["throughput"]} == {"onnxruntime"}
    built = plan_model(out / TENSORRT_ENGINE)
    assert "NonMaxSuppression" in {each.op_type for each in built.graph.node}
