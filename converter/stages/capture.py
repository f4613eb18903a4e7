"""The stage that writes the FP32 network as ONNX, and shows that it says what the network says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from calibrators.data.batches import random_pixels
from converter.errors import CaptureError, LoadError
from converter.graph.capture import FoldedGraph, as_written, graph_from_model, graph_from_onnx, same
from converter.graph.one_by_one import takes_one_image
from converter.graph.outputs import tensors_of
from converter.job import Job
from converter.load.torch_source import source_from_one_image
from converter.quantize.float_share import float_macs_percent, layers_in_float
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.stages.head import head_file, with_tail
from converter.trust.answers import network_of
from converter.trust.task.base import Network
from converter.workspace import FP32_ONNX
from engines.errors import BuildError
from engines.onnx_passes.external_data import LARGEST_ONNX
from engines.onnxruntime.engine import OnnxRuntimeEngine
from zscgan_common.files import write_atomic
from zscgan_common.text import cut
from zscgan_common.warning_message import WarningMessage

CHECKED_BATCHES = 1, 2, 5
ANY_BATCH = "the network must take any batch size: write x.flatten(1), or sizes taken from x.shape[0]"
MUCH_FLOAT = 10.0
"""Percent of the multiply-adds."""


@dataclass(frozen=True)
class Captured:
    """The folded FP32 network, where its quantizers go, and how far ONNX Runtime is from PyTorch with it."""

    graph: FoldedGraph
    plan: QuantizationPlan
    largest_difference: float


def graph_of(job: Job) -> FoldedGraph:
    """The folded graph of the network, which moves to the device; that of an ONNX file is the user's own."""
    teacher = job.teacher
    if teacher.onnx is not None:
        teacher.module.to(job.device)
        return graph_from_onnx(teacher.onnx, teacher.spec, job.device)
    try:
        return graph_from_model(teacher.module, teacher.spec, job.device)
    except CaptureError as error:
        return graph_from_one_image(job, error)


def graph_from_one_image(job: Job, error: CaptureError) -> FoldedGraph:
    """The folded graph by an export for one image, made to take any number; raises ``error`` where that fails."""
    teacher = job.teacher
    teacher.module.to("cpu")
    try:
        source = source_from_one_image(teacher.module, Path(teacher.name), teacher.spec)
    except (CaptureError, LoadError):
        source = None
    if source is None or source.tail is not None or takes_one_image(source.model):
        raise error
    teacher.module.to(job.device)
    return graph_from_onnx(source.model, teacher.spec, job.device)


def capture(job: Job) -> Captured:
    """The folded graph, and its FP32 ONNX in the workspace, compared with the teacher on random pixels.

    Raises CaptureError where the two differ by more than rounding, and CacheError where ``--calibration-cache`` lacks
    ranges that the network needs.
    """
    with job.console.stage("capture") as stage:
        graph = graph_of(job)
        difference = write_fp32(job, graph)
        stage.detail = f"{len(graph.onnx.graph.node)} nodes -> {FP32_ONNX}, outputs within {difference:.1e}"
    plan = place_quantizers(graph.onnx)
    warn_of_float(job, graph, plan)
    if job.cached is not None:
        job.cached.selected(plan.observed)  # before the training, not after it
    return Captured(graph, plan, difference)


def write_fp32(job: Job, graph: FoldedGraph) -> float:
    """``model.fp32.onnx`` in the workspace; how far its outputs are from the teacher's, in several batch sizes."""
    if graph.onnx.ByteSize() >= LARGEST_ONNX:
        raise CaptureError(
            f"expected a network of less than 2 GB in FP32, got {graph.onnx.ByteSize() / 1e9:.1f} GB, more than "
            "one ONNX file can hold; convert a smaller one"
        )
    model = with_tail(job, as_written(graph.onnx))
    write_atomic(job.workspace.path(FP32_ONNX), model.SerializeToString())
    x = random_pixels(job.teacher.spec, max(CHECKED_BATCHES), job.seed).to(job.device)
    with torch.no_grad():
        outputs = tensors_of(job.teacher.module(x))
    ours = dict(zip(job.teacher.probe, (output.cpu().numpy() for output in outputs), strict=True))
    with head_file(job, FP32_ONNX) as path, OnnxRuntimeEngine(path) as engine:
        return max(
            difference_from(
                network_of(engine), x[:batch].cpu().numpy(), {name: ours[name][:batch] for name in ours}
            )
            for batch in CHECKED_BATCHES
        )


def difference_from(
    network: Network,
    x: Float[np.ndarray, "batch channels height width"],
    expected: Mapping[str, NDArray[Any]],
) -> float:
    """The largest difference of the FP32 ONNX model's outputs from PyTorch's ``expected``.

    Raises CaptureError for other shapes, and where it is more than rounding.
    """
    try:
        outputs = network(x)
    except BuildError as error:
        raise CaptureError(
            f"the FP32 ONNX model fails on a batch of {len(x)}: {error}; {ANY_BATCH}"
        ) from error
    for (name, wanted), got in zip(expected.items(), outputs, strict=True):
        if got.shape != wanted.shape:
            raise CaptureError(
                f"expected the FP32 ONNX model to give {name} of shape {list(wanted.shape)} for a batch of {len(x)}, "
                f"got {list(got.shape)}; {ANY_BATCH}"
            )
        if not same(got, wanted):
            raise CaptureError(
                f"the FP32 ONNX model and PyTorch differ by {_apart(got, wanted):.3g} in {name} of at most "
                f"{np.abs(wanted).max():.3g}; the network does something that torch.onnx writes wrongly"
            )
    return max(map(_apart, outputs, expected.values()))


def _apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.abs(one.astype(np.float64) - other).max())


def warn_of_float(job: Job, graph: FoldedGraph, plan: QuantizationPlan) -> None:
    """Warn where much of the network stays in float, whatever the ranges are."""
    percent = float_macs_percent(graph.onnx, plan)
    if percent >= MUCH_FLOAT:
        found = [f"{layer.name} ({layer.op})" for layer in layers_in_float(graph.onnx, plan)]
        job.console.warn(
            WarningMessage(
                "much-float",
                f"{percent:.0f} % of the multiply-adds stay in float: {cut(found, 5)}",
                "INT8 speeds up the rest alone; on a GPU --fp16 speeds up these too. TensorRT gains nothing by INT8 in "
                "weights that depend on the input, einsums that are no matrix product, attention over more than 512 "
                "tokens, and products of two activations with fewer than 16 columns or summands.",
            )
        )
