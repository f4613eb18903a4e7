"""Quantized networks without weights to download: random ones, calibrated on noise.

Speed and size depend on neither weights nor ranges. Accuracy does, and is measured elsewhere.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import graph_from_model, observe
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
    plan = place_quantizers(graph.onnx)
    _, values = observe(graph.module, x, plan.observed)
    amax = {name: float(value.abs().max()) for name, value in values.items()}
    files = NoiseNetwork(folder / f"{arch}.fp32.onnx", folder / f"{arch}.int8.onnx")
    onnx.save(graph.onnx, files.fp32)
    onnx.save(qdq_from_onnx(graph.onnx, plan, amax), files.int8)
    return files


def noise_images(batch: int, *, seed: int = 1) -> np.ndarray:
    """Standard normal images, float32 (batch, 3, 224, 224)."""
    return np.random.default_rng(seed).standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)
