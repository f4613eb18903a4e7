"""``examples/other_tools``: each with the real package, on a small network and samples of ``zscgan-samples``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn

from converter.cli.samples import command

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "other_tools"
LINES = 25
QUIET = {"NNCF_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
COSINE = 0.95
"""NNCF averages the extremes of the samples, so that it clips some."""


class Small(nn.Module):
    """Convolutions, a skip connection and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.body(x)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model.onnx`` and ``calib.npz``."""
    place = tmp_path_factory.mktemp("other_tools")
    torch.manual_seed(0)
    torch.onnx.export(
        Small().eval(), (torch.randn(2, 3, 16, 16),), str(place / "model.onnx"), input_names=["pixels"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    given = [str(place / "model.onnx"), "--preset", "imagenet", "--input-shape", "3x16x16", "-n", "32"]
    result = CliRunner().invoke(command, [*given, "--normalised", "-q", "-o", str(place / "calib.npz")])
    assert result.exit_code == 0, result.output
    return place


def run(folder: Path, *arguments: str | Path) -> str:
    """What the command prints; it is run in ``folder``."""
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, arguments)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outputs(model: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0], np.float32)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def samples(folder: Path) -> NDArray[np.float32]:
    with np.load(folder / "calib.npz") as archive:
        return np.asarray(archive["pixels"])


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("script", ["modelopt_ptq", "onnxruntime_static"])
def test_onnx_with_qdq(folder: Path, script: str) -> None:
    said = run(folder, sys.executable, EXAMPLES / f"{script}.py", "model.onnx", "calib.npz", f"{script}.onnx")
    assert "INT8, calibrated with 32 samples" in said
    operators = [node.op_type for node in onnx.load(folder / f"{script}.onnx").graph.node]
    assert operators.count("QuantizeLinear") >= 2
    x = samples(folder)[:8]
    assert cosine(outputs(folder / f"{script}.onnx", x), outputs(folder / "model.onnx", x)) > COSINE


def test_nncf_for_openvino(folder: Path) -> None:
    import openvino

    said = run(folder, sys.executable, EXAMPLES / "nncf_openvino.py", "model.onnx", "calib.npz", "int8.xml")
    assert "INT8, calibrated with 32 samples" in said
    core = openvino.Core()
    model = core.read_model(folder / "int8.xml")
    assert sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops()) >= 2
    x = samples(folder)[:8]
    found = core.compile_model(model, "CPU")(x)[0]
    assert cosine(np.asarray(found, np.float32), outputs(folder / "model.onnx", x)) > COSINE


def test_polygraphy_feeds_the_samples(folder: Path) -> None:
    script = EXAMPLES / "polygraphy_data.py"
    polygraphy = Path(sys.executable).with_name("polygraphy")
    run(folder, polygraphy, "run", "model.onnx", "--onnxrt", "--data-loader-script", script,
        "--save-outputs", "outputs.json", "--save-inputs", "inputs.json")  # fmt: skip
    from polygraphy.json import load_json

    inputs = load_json(str(folder / "inputs.json"))
    fed = np.concatenate([np.asarray(feed["pixels"]) for feed in inputs])
    assert np.array_equal(fed, samples(folder))


def test_modelopt_takes_the_archive_itself(folder: Path) -> None:
    run(folder, sys.executable, "-m", "modelopt.onnx.quantization", "--onnx_path", "model.onnx",
        "--calibration_data_path", "calib.npz", "--quantize_mode", "int8", "--calibration_eps", "cpu",
        "--output_path", "cli.onnx")  # fmt: skip
    x = samples(folder)[:8]
    assert cosine(outputs(folder / "cli.onnx", x), outputs(folder / "model.onnx", x)) > COSINE
