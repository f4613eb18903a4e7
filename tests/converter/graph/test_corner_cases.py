"""What real checkpoints contain, through the whole way: nothing may end in NaN, a scale of 0 or a crash."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from converter.cli.convert import command
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter.digits import quick_conversions

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, channels={channels}, classes={classes}):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x, scale=1.0, *, double=False):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = (self.conv3(x) - 100).relu() + x  # a ReLU that never fires
        x = self.fc(x.mean((2, 3))) * scale
        return x * 2 if double else x
"""


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_conversions():
        yield


def checkpoint(folder: Path, channels: int, classes: int) -> list[str]:
    """Files of a damaged but real network, and the flags that name them."""
    (folder / "net.py").write_text(NETWORK.format(channels=channels, classes=classes))
    namespace: dict[str, type[nn.Module]] = {}
    exec((folder / "net.py").read_text(), namespace)
    torch.manual_seed(0)
    model = namespace["Net"]()
    with torch.no_grad():
        model.conv1.weight[0] = 0  # a channel of zeros
        model.bn1.running_var[1] = 1e-26
        model.bn1.weight[2] = 0  # pruned: folding makes its weights zero
        model.bn2.running_mean.normal_()
    torch.save(model.state_dict(), folder / "net.pth")
    return [str(folder / "net.pth"), "--arch", f"{folder / 'net.py'}:Net"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "classes", "calibrator"),
    [
        ((3, 17, 23), 5, "entropy"),
        ((3, 17, 23), 5, "max"),
        ((3, 17, 23), 5, "percentile"),
        ((3, 17, 23), 5, "mse"),
        ((1, 9, 9), 2, "entropy"),
        ((2, 5, 5), 3, "entropy"),
        ((3, 16, 16), 1, "entropy"),
    ],
)
def test_a_difficult_network_converts(
    shape: tuple[int, int, int], classes: int, calibrator: str, tmp_path: Path
) -> None:
    flags = checkpoint(tmp_path, shape[0], classes)
    flags += ["--input-shape", "x".join(map(str, shape)), "--preset", "unit", "--calibrator", calibrator]
    flags += [
        "--int8",
        "--gan-steps",
        "5",
        "--guide-steps",
        "0",
        "--calib-samples",
        "32",
        "-o",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert all(math.isfinite(value) and value > 0 for value in report["calibration"]["ranges"].values())
    assert math.isfinite(report["synthesis"]["bn_kl"])
    assert report["model"]["classes"] == max(2, classes)  # one logit tells two apart
    model = onnx.load(tmp_path / "out" / "model.int8.onnx")
    scales = [onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith("scale")]
    assert scales
    assert all(np.isfinite(scale).all() and (scale > 0).all() for scale in scales)
    with OnnxRuntimeEngine(tmp_path / "out" / "model.onnxruntime.onnx") as engine:
        for batch in (1, 3):
            assert np.isfinite(engine.run(np.zeros((batch, *shape), np.float32))).all()


@pytest.mark.slow
def test_a_relu_that_never_fires_is_told_of(tmp_path: Path) -> None:
    flags = checkpoint(tmp_path, 1, 3)
    text = (
        (tmp_path / "net.py")
        .read_text()
        .replace("(self.conv3(x) - 100).relu() + x", "(self.conv3(x) - 100).relu()")
    )
    (tmp_path / "net.py").write_text(text)
    flags += [
        "--input-shape",
        "1x8x8",
        "--preset",
        "unit",
        "--int8",
        "--gan-steps",
        "2",
        "--calib-samples",
        "16",
    ]
    result = CliRunner().invoke(command, [*flags, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "always zero on every input" in result.output


@pytest.mark.slow
def test_a_plan_for_tensorrt_for_rtx_is_built(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX has wheels for x86-64 only")
    flags = checkpoint(tmp_path, 3, 5)
    flags += [
        "--input-shape",
        "3x16x16",
        "--preset",
        "unit",
        "--int8",
        "--gan-steps",
        "2",
        "--calib-samples",
        "16",
    ]
    flags += ["--engine", "tensorrt-rtx", "--compute-capability", "8.6,12.0", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(command, flags)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.tensorrt-rtx.plan").stat().st_size > 1000
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("the plan does not run on this machine" in warning for warning in report["warnings"])
