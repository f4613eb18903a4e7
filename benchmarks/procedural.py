"""How near the ranges from procedural images come to those from real ones, over networks of several kinds.

For each network the ranges of one half of the real images are the true ones. The other half, procedural images,
uniform pixels and Gaussian noise are measured against them: the error of a range is ``|log2(amax / true amax)|``. The
INT8 network of each source then runs in ONNX Runtime on the other half: how often it chooses the class of FP32 where
the network is a classifier, else the cosine of its outputs to those of FP32. The row ``images`` has the true ranges
there, so that no image both calibrates and measures.

DATA is the folder of ``conversion.py``, with ``networks/*.onnx`` beside. Those networks see photographs scaled to
their input, also where they were made for faces or text.

    python benchmarks/procedural.py DATA --network resnet20,yolo-fastestv2-folded --json FILE
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from observed import histograms, range_errors, ranges, summary
from onnx import helper
from PIL import Image
from quantizations import digits
from trial import NAMES, batch_of, network_from_data, teacher_from_network

from calibrators.data.batches import Batches, TensorBatches, random_pixels
from calibrators.data.images import UNKNOWN, ImageBatches, images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.data.procedural import ProceduralBatches
from calibrators.options import Algorithm
from converter.graph.capture import FoldedGraph, graph_from_model, graph_from_onnx
from converter.load.onnx_file import source_from_model
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.trust.trial_engine import UNQUANTIZED, run_trial

SOURCES = ("images", "procedural", "uniform", "gaussian")
CALIBRATORS: tuple[Algorithm, ...] = ("entropy", "mse")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class OnnxNetwork:
    """What a file of ``networks/`` takes: its size and normalisation, for blue, green, red where ``bgr``."""

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


ONNX_NETWORKS = {
    "yolo-fastestv2-folded": OnnxNetwork((3, 352, 352), (0.0,), (1.0,), bgr=True),
    "yolo-fastestv2": OnnxNetwork((3, 352, 352), (0.0,), (1.0,), bgr=True),
    "slim-320-face": OnnxNetwork((3, 240, 320), (127 / 255,), (128 / 255,)),
    "espnetv2-1.0": OnnxNetwork((3, 256, 256), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mobilefacenet": OnnxNetwork((3, 112, 96), (0.5,), (128 / 255,)),
    "text-direction": OnnxNetwork((3, 48, 192), (0.5,), (0.5,)),
}


@dataclass(frozen=True)
class Subject:
    """A network, the real images that give its true ranges, and those that measure."""

    name: str
    graph: FoldedGraph
    plan: QuantizationPlan
    spec: InputSpec
    reference: ImageBatches
    others: ImageBatches
    classifies: bool


@dataclass(frozen=True)
class Row:
    """One source on one network: range errors in log2, agreement with FP32 by calibrator (percent, or cosine)."""

    network: str
    source: str
    median: float
    largest: float
    signed_median: float
    agreement: dict[str, float]


def halves(path: Path, spec: InputSpec, samples: int) -> tuple[ImageBatches, ImageBatches]:
    """Two sets of at most ``samples`` images without a common one, evenly over the classes where there are labels."""
    images = images_from_path(path, spec, batch_size=batch_of(spec.shape), limit=2 * samples)
    half = len(images.order) // 2
    return replace(images, order=images.order[:half]), replace(images, order=images.order[half:])


def scaled_photographs(folder: Path, network: OnnxNetwork, path: Path) -> Path:
    """An archive of all photographs in ``folder`` at the network's size."""
    _, height, width = network.shape
    files = sorted(folder.glob("*.jpg"))
    pixels = np.empty((len(files), height, width, 3), np.uint8)
    for index, file in enumerate(files):
        with Image.open(file) as image:
            pixels[index] = np.asarray(image.convert("RGB").resize((width, height)))
    np.savez(path, images=pixels[..., ::-1] if network.bgr else pixels)
    return path


def with_one_output(model: onnx.ModelProto, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """``model`` for inputs of ``shape``, its outputs flattened and joined to one, the form the converter takes."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    for dim, size in zip(inputs[0].type.tensor_type.shape.dim[1:], shape, strict=True):
        dim.dim_value = size
    flat = [f"{value.name}_flat" for value in graph.output]
    for value, name in zip(graph.output, flat, strict=True):
        graph.node.append(helper.make_node("Flatten", [value.name], [name], axis=1))
    graph.node.append(helper.make_node("Concat", flat, ["joined"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("joined", onnx.TensorProto.FLOAT, ["batch", "values"]))
    return model


def subject_from_data(name: str, data: Path, samples: int, work: Path) -> Subject:
    """The network ``name`` with its images."""
    if name in ONNX_NETWORKS:
        network = ONNX_NETWORKS[name]
        spec, path = InputSpec(network.shape, network.mean, network.std), data / "networks" / f"{name}.onnx"
        model = with_one_output(onnx.load(path), network.shape)
        graph = graph_from_onnx(source_from_model(model, path).model, spec)
        images = scaled_photographs(data / "imagenet", network, work / f"{name}.npz")
    elif name == "digits":
        images, teacher = digits()
        spec, graph = teacher.spec, graph_from_model(teacher.module, teacher.spec)
    else:
        classifier = network_from_data(name, data, work)
        teacher, images = teacher_from_network(classifier), classifier.calib
        spec, graph = teacher.spec, graph_from_model(teacher.module, teacher.spec)
        if name == "efficientnet_lite0":  # half of its few images are in another file
            images = joined(classifier.val, classifier.calib, work / "joined.npz")
    reference, others = halves(images, spec, samples)
    plan = place_quantizers(graph.onnx)
    return Subject(name, graph, plan, spec, reference, others, name not in ONNX_NETWORKS)


def joined(one: Path, other: Path, path: Path) -> Path:
    """An archive of the images in two."""
    with np.load(one) as first, np.load(other) as second:
        np.savez(path, images=np.concatenate([first["images"], second["images"]]))
    return path


def gaussian_pixels(spec: InputSpec, count: int, seed: int) -> torch.Tensor:
    """Standard normal inputs, cut off where no pixel is."""
    x = torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(seed))
    low, high = (torch.tensor(bound).view(1, -1, 1, 1) for bound in (spec.low, spec.high))
    return x.clamp(low, high)


def samples_of(source: str, subject: Subject, seed: int) -> Batches:
    """As many inputs of ``source`` as there are real images for the true ranges."""
    count, batch = len(subject.reference.order), subject.reference.batch_size
    if source == "images":
        return subject.others
    if source == "procedural":
        return ProceduralBatches(subject.spec, count, batch, seed)
    make = random_pixels if source == "uniform" else gaussian_pixels
    return TensorBatches(make(subject.spec, count, seed), torch.full((count,), UNKNOWN), batch)


def said(subject: Subject, plan: QuantizationPlan, amax: dict[str, float]) -> NDArray[np.float32]:
    """All outputs of a quantization, in ONNX Runtime, for the images that measure, a row an image."""
    with run_trial(subject.graph, plan, amax) as network:
        said = [network(np.ascontiguousarray(x.numpy())) for x, _ in subject.others]
    rows = [[values.reshape(len(values), -1) for values in outputs] for outputs in said]
    return np.concatenate([np.concatenate(parts, axis=1) for parts in rows])


def agreement(subject: Subject, ours: NDArray[np.float32], fp32: NDArray[np.float32]) -> float:
    """Percent of the images of the same class, or the mean cosine of the outputs."""
    if subject.classifies:
        return 100 * float(np.mean(ours.argmax(axis=1) == fp32.argmax(axis=1)))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(fp32, axis=1)
    return float(np.mean((ours * fp32).sum(axis=1) / norms))


def measure(subject: Subject, sources: tuple[str, ...], seed: int, *, agree: bool) -> Iterator[Row]:
    """A row for each source."""
    true = histograms(subject.graph, subject.plan, subject.reference, CPU)
    fp32 = said(subject, UNQUANTIZED, {}) if agree else None
    spec, entrance = subject.spec, subject.graph.activations[0]
    bounds = max(map(abs, (*spec.low, *spec.high)))
    for source in sources:
        seen = histograms(subject.graph, subject.plan, samples_of(source, subject, seed), CPU)
        errors = summary(range_errors(ranges(seen, "entropy"), ranges(true, "entropy")))
        agreed = {}
        for calibrator in CALIBRATORS:
            if fp32 is None:
                continue
            amax = ranges(true if source == "images" else seen, calibrator)
            if source != "images" and entrance in amax:
                amax[entrance] = bounds  # as in a conversion without images
            agreed[str(calibrator)] = agreement(subject, said(subject, subject.plan, amax), fp32)
        yield Row(subject.name, source, errors["median"], errors["largest"], errors["signed_median"], agreed)


def table(rows: list[Row]) -> str:
    """Markdown, a line for each network and source."""
    lines = [
        "| network | source | range error: median, largest | its sign | W8A8 with FP32, by entropy, mse |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        values = row.agreement.values()
        shown = ", ".join(f"{value:.1f} %" if value > 1 else f"{value:.4f}" for value in values)
        errors = f"{row.median:.2f}, {row.largest:.2f} | {row.signed_median:+.2f}"
        lines.append(f"| {row.network} | {row.source} | {errors} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    every = (*NAMES, "digits", *ONNX_NETWORKS)
    parser.add_argument("--network", default=",".join(every), help="with commas between [default: all]")
    parser.add_argument("--sources", default=",".join(SOURCES), help="with commas between [default: all]")
    parser.add_argument("--samples", type=int, default=512, help="inputs of each source [default: 512]")
    parser.add_argument("--seed", type=int, default=0, help="of what is random [default: 0]")
    parser.add_argument("--only-ranges", action="store_true", help="run no INT8 network")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for name in given.network.split(","):
            subject = subject_from_data(name, given.data, given.samples, Path(work))
            sources = tuple(given.sources.split(","))
            rows += measure(subject, sources, given.seed, agree=not given.only_ranges)
            print(table([row for row in rows if row.network == name]), flush=True)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
