"""Quantized networks without weights to download: random ones, calibrated on noise.

Speed and size depend on neither weights nor ranges. Accuracy does, and is measured elsewhere.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_model, observe
from converter.graph.twin import twin_from_onnx
from converter.quantize.placement import place_quantizers
from converter.quantize.qdq import qdq_from_onnx

SIZE = 224


@dataclass(frozen=True)
class NoiseNetwork:
    """ONNX files of one architecture: FP32, and INT8 with Q/DQ pairs."""

    fp32: Path
    int8: Path


def noise_network(arch: str, folder: Path, *, seed: int = 0) -> NoiseNetwork:
    """A torchvision ``arch`` with random weights and batch norms that fit them, written to ``folder``."""
    import torchvision

    torch.manual_seed(seed)
    model = torchvision.models.get_model(arch, weights=None)
    x = torch.randn(8, 3, SIZE, SIZE)
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(torch.randn_like(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = graph_from_model(model, InputSpec((3, SIZE, SIZE)))
    return _quantized(graph.onnx, graph.module, x, folder, arch)


def quantized_on_noise(fp32: onnx.ModelProto, folder: Path, name: str) -> NoiseNetwork:
    """An ONNX network whose batch norms are folded, of one image with static channels, height and width."""
    fp32 = onnx.shape_inference.infer_shapes(fp32)
    shape = [dim.dim_value for dim in fp32.graph.input[0].type.tensor_type.shape.dim][1:]
    return _quantized(fp32, twin_from_onnx(fp32), torch.randn(8, *shape), folder, name)


def _quantized(
    fp32: onnx.ModelProto, module: torch.fx.GraphModule, x: torch.Tensor, folder: Path, name: str
) -> NoiseNetwork:
    plan = place_quantizers(fp32)
    _, values = observe(module, x, plan.observed)
    amax = {tensor: max(float(value.abs().max()), 1e-3) for tensor, value in values.items()}
    files = NoiseNetwork(folder / f"{name}.fp32.onnx", folder / f"{name}.int8.onnx")
    onnx.save(fp32, files.fp32)
    onnx.save(qdq_from_onnx(fp32, plan, amax), files.int8)
    return files
