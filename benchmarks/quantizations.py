"""Logits of classifiers in FP32 and under many quantizations, on real images and on samples; for ``prediction.py``.

Logits are kept in a folder, two files for each quantization, so that a run that was stopped goes on where it was.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from conversion import Network
from measure import pixel_bounds
from numpy.typing import NDArray
from observed import histograms, ranges
from torch import Tensor, nn
from train_cifar import MEAN, STD
from trial import (
    batch_of,
    calibration_samples,
    gan_options_of,
    network_from_data,
    task_of,
    teacher_from_network,
)

from calibrators.data.batches import Batches, TensorBatches
from calibrators.data.images import images_from_path
from calibrators.fingerprint import fingerprint
from calibrators.options import ALGORITHMS, Algorithm
from calibrators.ranges.histogram import Histogram
from calibrators.zscgan.sampling import TrainedGenerator, load_generator
from converter.console import Console
from converter.graph.capture import INPUT, FoldedGraph, graph_from_model
from converter.job import SampleUse
from converter.load.model import Teacher, load_model
from converter.load.options import ModelOptions
from converter.quantize.fake_quant import simulate
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.samples import ProceduralSamples, SampleSource
from converter.stages.synthesis import generated_samples, generator_from_teacher
from converter.trust.prediction import border_inputs, inputs_for, procedural_inputs

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
TRAINED = Path(__file__).with_name("train_cifar.py")
OUTSIDE = ("vgg", "densenet", "mobilenet", "vit", "convnext")
"""Networks of ``train_cifar.py``, predicted as a conversion does it."""
SYMMETRIC = ("resnet20", "resnet56", "efficientnet_lite0", *OUTSIDE)
"""Networks whose images mean the same in a mirror; twice as many inputs resolve smaller differences."""

LARGE = ("efficientnet_lite0",)
"""Networks that take long: they get fewer images and quantizations."""

IMAGES, LARGE_IMAGES, NOISE = 500, 250, 128

Seen = dict[str, Histogram]
"""Of each tensor, over the inputs of one source."""


@dataclass(frozen=True)
class Case:
    """One quantization: of weights, of activations or of both, with ranges from samples or from noise."""

    bits: int
    calibrator: Algorithm
    source: Literal["samples", "noise"] = "samples"
    what: Literal["WA", "W", "A"] = "WA"

    def __str__(self) -> str:
        widths = "".join(f"{letter}{self.bits}" for letter in self.what)
        return f"{widths} {self.calibrator} {self.source}"

    def part_of(self, plan: QuantizationPlan) -> QuantizationPlan:
        """``plan`` as far as weights or activations are quantized."""
        if self.what == "WA":
            return plan
        return replace(plan, activations=()) if self.what == "W" else replace(plan, weights=())

    def network(
        self, graph: FoldedGraph, plan: QuantizationPlan, seen: Mapping[str, Seen], teacher: Teacher
    ) -> nn.Module:
        """``graph`` with its part of the quantizers of ``plan``; the range of the input is known."""
        amax = ranges(seen[self.source], self.calibrator, self.bits)
        if INPUT in amax:
            amax[INPUT] = pixel_bounds(teacher)
        return simulate(graph, self.part_of(plan), amax, self.bits)


def cases_of(name: str) -> list[Case]:
    """The quantizations of one network."""
    return quantizations_of((8, 6) if name in LARGE else (8, 6, 5, 4))


def quantizations_of(widths: Sequence[int]) -> list[Case]:
    """All calibrators, ranges and parts of a network, with each number of bits."""
    found: list[Case] = []
    for bits in widths:
        calibrators: tuple[Algorithm, ...] = ALGORITHMS if bits == 8 else ("max", "percentile", "mse")
        found += [Case(bits, calibrator) for calibrator in calibrators]
        found += [
            Case(bits, calibrator, "noise") for calibrator in calibrators if calibrator in ("max", "mse")
        ]
        found += [Case(bits, "mse", what="W"), Case(bits, "mse", what="A")]
    return found


@dataclass(frozen=True)
class Subject:
    """A classifier with its real images and labels, its samples, and the ranges that both sources gave."""

    name: str
    teacher: Teacher
    graph: FoldedGraph
    plan: QuantizationPlan
    images: Batches
    samples: Batches
    seen: dict[str, Seen]

    def quantized(self, case: Case | None) -> nn.Module:
        """The network with the quantizers of ``case``, or without any."""
        if case is None:
            return self.graph.module
        return case.network(self.graph, self.plan, self.seen, self.teacher)


@dataclass(frozen=True)
class Measured:
    """Logits of one network on the real images and on the samples."""

    images: NDArray[np.float32]
    samples: NDArray[np.float32]


def subject_from_data(name: str, data: Path, generators: Path | None, work: Path) -> Subject:
    """The network ``name`` with everything that is measured on it."""
    val, teacher = classifier(name, data, work)
    graph = graph_from_model(teacher.module, teacher.spec)
    plan = place_quantizers(graph.onnx)
    batch = batch_of(teacher.spec.shape)
    generated = samples_for(name, teacher, generators, work)
    seen = {
        "samples": calibration_samples(generated, teacher.spec, 0),
        "noise": noise(teacher, NOISE, batch),
    }
    return Subject(
        name,
        teacher,
        graph,
        plan,
        real_images(
            val, teacher, LARGE_IMAGES if name in LARGE else IMAGES, batch, mirrored=name in SYMMETRIC
        ),
        border_inputs(generated, inputs_for(batch), batch, SampleUse.JUDGING),
        {source: histograms(graph, plan, batches, torch.device("cpu")) for source, batches in seen.items()},
    )


def classifier(name: str, data: Path, work: Path) -> tuple[Path, Teacher]:
    """The images that measure and the classifier ``name``."""
    if name == "digits":
        return digits()
    return outside(name, data) if name in OUTSIDE else from_network(network_from_data(name, data, work))


def samples_for(name: str, teacher: Teacher, generators: Path | None, work: Path) -> SampleSource:
    """What networks are compared on without data: a generator's samples; without batch norms procedural images."""
    if not teacher.bn_layers:
        return ProceduralSamples(teacher.spec, torch.device("cpu"))
    trained = generator_for(name, teacher, generators, work)
    return generated_samples(teacher, task_of(teacher), trained, gan_options_of(teacher))


def outside(name: str, data: Path) -> tuple[Path, Teacher]:
    """The CIFAR-10 test images and the network in ``models/cifar10-NAME.pth``."""
    options = ModelOptions(
        str(data / "models" / f"cifar10-{name}.pth"),
        arch=f"{TRAINED}:build_{name}",
        input_shape=(3, 32, 32),
        mean=MEAN,
        std=STD,
    )
    return data / "cifar10" / "test-500.npz", load_model(options)


def digits() -> tuple[Path, Teacher]:
    """The test images and the classifier of examples/digits."""
    options = ModelOptions(
        str(DIGITS / "digits.pth"),
        arch=f"{DIGITS / 'model.py'}:digits_resnet",
        input_shape=(1, 8, 8),
        mean=(0.305,),
        std=(0.376,),
    )
    return DIGITS / "test.npz", load_model(options)


def from_network(network: Network) -> tuple[Path, Teacher]:
    """The images that measure and the classifier."""
    return network.val, teacher_from_network(network)


def generator_for(name: str, teacher: Teacher, generators: Path | None, work: Path) -> TrainedGenerator:
    """The generator in ``generators/NAME/generator.pt``, or one that is trained now."""
    weights, cpu = fingerprint(teacher.module.state_dict()), torch.device("cpu")
    if generators is not None:
        path = generators / name / "generator.pt"
        return load_generator(path, fingerprint=weights, spec=teacher.spec, device=cpu)
    return generator_from_teacher(
        teacher,
        task_of(teacher),
        weights,
        gan_options_of(teacher),
        checkpoint=work / f"{name}.checkpoint.pt",
        device=cpu,
        console=Console(),
    )


def noise(teacher: Teacher, count: int, batch: int) -> TensorBatches:
    """Standard normal inputs within the bounds of a pixel: bad calibration data, for bad ranges."""
    x = torch.randn(count, *teacher.spec.shape, generator=torch.Generator().manual_seed(0))
    low, high = (torch.tensor(bound).view(1, -1, 1, 1) for bound in (teacher.spec.low, teacher.spec.high))
    return TensorBatches(x.clamp(low, high), torch.zeros(count, dtype=torch.int64), batch)


def real_images(val: Path, teacher: Teacher, count: int, batch: int, *, mirrored: bool) -> TensorBatches:
    """``count`` labelled images, and behind them their mirror images."""
    batches = images_from_path(
        val,
        teacher.spec,
        batch_size=batch,
        limit=count,
        require_labels=True,
        classes=task_of(teacher).classes,
    )
    xs, ys = zip(*batches, strict=True)
    x, y = torch.cat(xs), torch.cat(ys)
    return (
        TensorBatches(torch.cat([x, x.flip(3)]), y.repeat(2), batch)
        if mirrored
        else TensorBatches(x, y, batch)
    )


def measured(subject: Subject, folder: Path) -> Iterator[tuple[Case | None, Measured]]:
    """The logits in FP32 (None) and those of each quantization; read from ``folder`` where they are in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in (None, *cases_of(subject.name)):
        network = partial(subject.quantized, case)
        on_images, on_samples = (
            kept(folder / f"{subject.name} {case or 'FP32'} {what}.npy", network, batches)
            for what, batches in (("images", subject.images), ("samples", subject.samples))
        )
        yield case, Measured(on_images, on_samples)


def of_procedural(subject: Subject, folder: Path) -> NDArray[np.float32]:
    """FP32's logits of procedural images; read from ``folder`` where they are in it."""
    inputs = procedural_inputs(subject.teacher.spec, batch_of(subject.teacher.spec.shape), 0)
    return kept(folder / f"{subject.name} FP32 procedural.npy", partial(subject.quantized, None), inputs)


def kept(path: Path, network: Callable[[], nn.Module], batches: Batches) -> NDArray[np.float32]:
    """The logits in the file, which is written first where there is none."""
    if not path.exists():
        np.save(path, logits(network(), batches))
    found: NDArray[np.float32] = np.load(path)
    return found


@torch.no_grad()
def logits(module: nn.Module, batches: Batches) -> NDArray[np.float32]:
    """The logits of all batches."""
    found: list[Tensor] = [module(x) for x, _ in batches]
    array: NDArray[np.float32] = torch.cat(found).numpy()
    return array


def labels(batches: Batches) -> NDArray[np.int64]:
    """The labels of all batches."""
    found: NDArray[np.int64] = np.array(list(itertools.chain.from_iterable(y.tolist() for _, y in batches)))
    return found
