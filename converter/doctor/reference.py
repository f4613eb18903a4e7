"""An engine's logits beside those of two references, and how far they may be apart.

The same INT8 network with its Q/DQ pairs computed literally, by ONNX Runtime without any optimization, shows
mistakes of an engine; the FP32 classifier in PyTorch shows mistakes of the quantization.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calibrators.data.images import images_from_path
from converter.graph.outputs import tensors_of
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.trust.answers import in_parts, network_of
from converter.trust.limits import FP32_LIMITS, QDQ_LIMITS, Difference
from converter.trust.parity import difference, literal_outputs
from converter.trust.task.base import Outputs
from converter.trust.task.classes import Classes
from engines.base import Engine

BATCH = 25
"""Divides the digits example's 500 test images and lies inside of a plan's usual profile."""


@dataclass(frozen=True)
class References:
    """Normalised images, their labels, and the outputs of both references for them."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    task: Classes
    fp32: Outputs
    qdq: Outputs


def references_from_model(model: ModelOptions, images: Path, int8_onnx: Path) -> References:
    """Those of the classifier ``model`` and of its Q/DQ network, for the labelled images of a file or folder."""
    teacher = load_model(model)
    (logits,) = teacher.probe.values()
    task = Classes(logits.shape[1])
    batches = list(images_from_path(images, teacher.spec, classes=task.classes, require_labels=True))
    x = torch.cat([some for some, _ in batches])
    with torch.no_grad():
        fp32 = tensors_of(teacher.module(x))
    labels = torch.cat([some for _, some in batches]).numpy()
    return References(
        x.numpy(),
        labels,
        task,
        tuple(output.numpy() for output in fp32),
        literal_outputs(int8_onnx, x.numpy()),
    )


@dataclass(frozen=True)
class Comparison:
    """One engine: its precision, both differences, how often it is right in percent, and what it missed."""

    precision: str
    qdq: Difference
    fp32: Difference
    top1: float
    missed: tuple[str, ...]


def compare_with_references(engine: Engine, references: References) -> Comparison:
    """``engine`` on the images of ``references``, in batches of ``BATCH``."""
    task, outputs = references.task, in_parts(network_of(engine), 1, BATCH)(references.images)
    qdq, fp32 = (difference(outputs, expected, task) for expected in (references.qdq, references.fp32))
    missed = [
        *(f"against Q/DQ: {text}" for text in qdq.missed(QDQ_LIMITS)),
        *(f"against FP32: {text}" for text in fp32.missed(FP32_LIMITS)),
    ]
    # TensorRT for RTX promises INT8 weights only, and an inspector needn't tell.
    if engine.name != "tensorrt-rtx" and engine.precision not in {"int8", "unknown"}:
        missed.append(f"it runs in {engine.precision}, not in int8")
    top1 = task.accuracy(task.answers(outputs), references.labels.tolist())
    return Comparison(engine.precision, qdq, fp32, top1, tuple(missed))
