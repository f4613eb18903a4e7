"""TorchScript of kernels that take no float weights is refused by name, before anything is asked of the input."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from converter.errors import LoadError
from converter.load.model import load_model
from converter.load.options import ModelOptions
from tests.converter.load.test_model import Tiny, assert_same_network, load, trained

pytestmark = [
    # PyTorch's own notices about what these tests have to write.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Lite Interpreter:FutureWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]

ADVICE = r"Give the float state_dict, .*, with --arch file.py:callable"


def test_dynamic_quantization(tmp_path: Path) -> None:
    quantized = torch.ao.quantization.quantize_dynamic(trained(), {nn.Linear})
    torch.jit.script(quantized).save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match=f"is already quantized; expected the float model. {ADVICE}"):
        load_model(ModelOptions(str(tmp_path / "net.pt")))


def test_quantized_activations(tmp_path: Path) -> None:
    class Quantized(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize())

    torch.jit.trace(Quantized().eval(), torch.zeros(2, 3, 8, 8)).save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match="is already quantized"):
        load_model(ModelOptions(str(tmp_path / "net.pt")))


def test_weights_packed_for_a_cpu(tmp_path: Path) -> None:
    script = torch.jit.optimize_for_inference(torch.jit.script(trained()))
    script.save(tmp_path / "net.pt")
    with pytest.raises(LoadError, match=rf"made for one kind of CPU .*{ADVICE}"):
        load_model(ModelOptions(str(tmp_path / "net.pt")))


def test_optimized_for_mobile(tmp_path: Path) -> None:
    """By hand, as not every build of PyTorch can write it."""
    with zipfile.ZipFile(tmp_path / "net.ptl", "w") as archive:
        archive.writestr("net/constants.pkl", b"")
        archive.writestr("net/code/__torch__/net.py", "x0 = ops.prepacked.conv2d_clamp_run(x, self.packed)")
    with pytest.raises(LoadError, match=rf"made for mobile \(optimize_for_mobile\).*{ADVICE}"):
        load_model(ModelOptions(str(tmp_path / "net.ptl")))


def test_flatbuffers_for_mobile(tmp_path: Path) -> None:
    script = torch.jit.script(trained())
    script._save_for_lite_interpreter(str(tmp_path / "net.ptl"), _use_flatbuffer=True)
    (tmp_path / "net.pte").write_bytes(b"\x30\0\0\0ET12" + bytes(60))
    for name in ("net.ptl", "net.pte"):
        with pytest.raises(LoadError, match=rf"{name} was made for mobile .*; give the float state_dict"):
            load_model(ModelOptions(str(tmp_path / name)))


def test_float_networks_for_the_lite_interpreter_are_read(tmp_path: Path) -> None:
    network = trained()
    torch.jit.script(network)._save_for_lite_interpreter(str(tmp_path / "net.ptl"))
    assert_same_network(load(tmp_path / "net.ptl"), network)
