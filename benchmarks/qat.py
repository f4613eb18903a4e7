"""Fine-tuning without data against fine-tuning on real images and against none, at several bit widths.

For each number of bits: top-1 and the share of images with FP32's class, quantized with ranges from samples or from
512 real images (``PTQ``), and after as many steps of fine-tuning on samples or on 10,000 training images (``QAT``).
8 bits are what a conversion deploys, with its own calibrator; fewer are simulated, as a stress test, with ranges of
least squared error, and by default one more bit of resolution behind a ReLU, as papers on 4 bits have it
(``--signed``: as TensorRT has it). Every layer is quantized, the first and the last included. DATA is the folder of
``conversion.py``.

    python benchmarks/qat.py DATA --network resnet20 --bits 8,5,4 --steps 1000 --json FILE
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measure import answers_of, logits_of
from observed import histograms, ranges
from quantizations import generator_for
from torch import nn
from trial import (
    NAMES,
    SAMPLES,
    batch_of,
    calibration_images,
    gan_options_of,
    network_from_data,
    task_of,
    teacher_from_network,
)

from calibrators.data.batches import Batches
from calibrators.data.images import ImageBatches, images_from_path
from converter.console import Console
from converter.graph.capture import FoldedGraph, graph_from_model
from converter.qat.data import Images, Samples, Source
from converter.qat.fine_tune import fine_tune_graph, new_tuning
from converter.qat.options import QATOptions
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.stages.synthesis import generated_samples
from converter.trust.answers import Answers
from converter.trust.task.classes import Classes

CPU = torch.device("cpu")
DEPLOYED_BITS = 8


@dataclass(frozen=True)
class Subject:
    """The classifier, its plan, what it is measured with, and for each source calibration data and training data."""

    graph: FoldedGraph
    plan: QuantizationPlan
    task: Classes
    val: ImageBatches
    fp32: Answers
    sources: dict[str, tuple[Batches, Source]]


@dataclass(frozen=True)
class Row:
    """One network: percent, seconds of the fine-tuning, and which of the two was kept."""

    bits: int
    source: str
    kind: str
    top1: float
    agreement: float
    seconds: float = 0.0
    kept: str = ""


def subject_from_data(options: argparse.Namespace, work: Path) -> Subject:
    """The network with everything that is the same for all bit widths."""
    network = network_from_data(options.network, options.data.resolve(), work)
    teacher = teacher_from_network(network)
    graph = graph_from_model(teacher.module, teacher.spec)
    batch = batch_of(teacher.spec.shape)
    trained = generator_for(options.network, teacher, options.generators, work)
    generated = generated_samples(teacher, task_of(teacher), trained, gan_options_of(teacher))
    images = images_from_path(network.calib, teacher.spec, batch_size=batch)
    val = images_from_path(network.val, teacher.spec, batch_size=batch, require_labels=True)
    sources: dict[str, tuple[Batches, Source]] = {
        "samples": (
            generated.batches(SAMPLES, batch, 0),
            Samples(generated, batch, options.seed),
        ),
        "images": (calibration_images(network, teacher.spec, 1), Images(images, batch, options.seed, CPU)),
    }
    fp32 = answers_of(logits_of(graph.module, val, CPU), task_of(teacher), val)
    return Subject(graph, place_quantizers(graph.onnx), task_of(teacher), val, fp32, sources)


def measured(subject: Subject, module: nn.Module) -> dict[str, float]:
    """What ``module`` says to the validation images."""
    said = answers_of(logits_of(module.eval(), subject.val, CPU), subject.task, subject.val)
    return {"top1": said.accuracy, "agreement": said.agreement(subject.fp32).percent}


def rows_of(subject: Subject, bits: int, given: argparse.Namespace) -> Iterator[Row]:
    """PTQ and QAT with each source."""
    calibrator = "entropy" if bits == DEPLOYED_BITS else "mse"
    options = QATOptions(
        steps=given.steps,
        num_bits=bits,
        unsigned=bits < DEPLOYED_BITS and not given.signed,
        learning_rate=given.lr,
        seed=given.seed,
    )
    for name, (calibration, source) in subject.sources.items():
        seen = histograms(subject.graph, subject.plan, calibration, CPU)
        amax = ranges(seen, calibrator, bits)
        state = new_tuning(subject.graph, subject.plan, amax, options)
        yield Row(bits, name, "PTQ", **measured(subject, state.student))
        started = time.perf_counter()
        with Console().progress("qat", given.steps) as advance:
            tuned = fine_tune_graph(
                subject.graph,
                subject.plan,
                amax,
                subject.task,
                source,
                options,
                state=state,
                on_step=lambda state, advance=advance: advance(state.step, f"loss {state.losses[-1]:.4f}"),
            )
        seconds = time.perf_counter() - started
        yield Row(bits, name, "QAT", **measured(subject, tuned.student), seconds=seconds, kept=tuned.kept)


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with models/, cifar10/ and imagenet/")
    parser.add_argument("--network", choices=NAMES, default="resnet20")
    parser.add_argument("--bits", default="8,5,4")
    parser.add_argument("--steps", type=int, default=QATOptions.steps)
    parser.add_argument("--lr", type=float, default=QATOptions.learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signed", action="store_true", help="signed codes behind a ReLU too")
    parser.add_argument(
        "--generators", type=Path, help="folder with NETWORK/generator.pt; absent: one is trained"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        subject = subject_from_data(given, Path(folder))
        print(f"{given.network}, FP32 top-1 {subject.fp32.accuracy:.1f} %\n")
        print(
            "| bits | data | | top-1 | drop | same class | seconds |\n| --- | --- | --- | --- | --- | --- | --- |"
        )
        for bits in map(int, given.bits.split(",")):
            for row in rows_of(subject, bits, given):
                rows.append(row)
                seconds = f"{row.seconds:.0f}" if row.kind == "QAT" else ""
                print(
                    f"| {bits} | {row.source} | {row.kind} | {row.top1:.1f} | {subject.fp32.accuracy - row.top1:.1f} | "
                    f"{row.agreement:.1f} | {seconds} |",
                    flush=True,
                )
    if given.json is not None:
        document = {
            "network": given.network,
            "fp32_top1": subject.fp32.accuracy,
            "steps": given.steps,
            "rows": [asdict(row) for row in rows],
        }
        given.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
