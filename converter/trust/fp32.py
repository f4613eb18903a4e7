"""The FP32 network as a function of arrays, run where the conversion runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from calibrators.data.batches import send
from calibrators.kernels import exact_kernels
from converter.graph.outputs import tensors_of
from converter.trust.answers import network_of
from converter.trust.task.base import Network, Outputs
from engines.onnxruntime.engine import OnnxRuntimeEngine


def fp32_by(device: torch.device) -> str:
    """What runs the FP32 network in a conversion on ``device``."""
    return "PyTorch on the GPU" if device.type == "cuda" else "ONNX Runtime on the CPU"


@contextmanager
def fp32_network(network: nn.Module, device: torch.device, path: Path) -> Iterator[Network]:
    """``network``, in PyTorch, where ``device`` is a GPU, on which it lies; else its ONNX model at ``path``.

    A CPU would take hours for images that a GPU does in minutes. Capturing has shown that both give the same outputs.
    """
    if device.type != "cuda":
        with OnnxRuntimeEngine(path) as engine:
            yield network_of(engine)
        return

    @torch.no_grad()
    @exact_kernels()
    def run(x: NDArray[np.float32]) -> Outputs:
        return tuple(
            output.cpu().numpy() for output in tensors_of(network(send(torch.from_numpy(x), device)))
        )

    yield run
