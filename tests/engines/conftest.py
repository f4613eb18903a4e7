"""What the tests of both command lines start from."""

from pathlib import Path

import onnx
import pytest

from tests.engines.networks import Net, detector, small_network


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A FP32 and a Q/DQ network on the disk."""
    net = Net()
    onnx.save(net.model(net.node("Relu", "input")), tmp_path / "fp32.onnx")
    onnx.save(small_network(), tmp_path / "int8.onnx")
    return str(tmp_path / "fp32.onnx"), str(tmp_path / "int8.onnx")


@pytest.fixture
def detector_file(tmp_path: Path) -> Path:
    """A Q/DQ network with four outputs."""
    net = Net()
    onnx.save(net.model(*detector(net)), tmp_path / "detector.onnx")
    return tmp_path / "detector.onnx"
