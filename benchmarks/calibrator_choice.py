"""How often ``--calibrator auto`` takes the calibrator that is best on real images, or as good within the error.

For each network and seed a generator is trained, its samples give the ranges of every calibrator, and the calibrator
is chosen as in a conversion, from samples alone. Then all INT8 networks run on labelled images that calibrated
nothing: for CIFAR-10 the test images and as many training images as make 2,000, for EfficientNet-Lite0 the 500 of
``conversion.py``, for the digits their 500. A calibrator is as good as the best one where the images that only one of
the two gets right (or gives FP32's class) differ by no more than the square root of their number, one standard error.
DATA is the folder of ``conversion.py``.

    python benchmarks/calibrator_choice.py DATA --seeds 0,1 --json FILE
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from quantizations import digits, from_network
from trial import batch_of, calibration_samples, gan_options_of, network_from_data, task_of

from calibrators.data.batches import Batches, first_inputs
from calibrators.data.images import images_from_path
from calibrators.fingerprint import fingerprint
from calibrators.options import ALGORITHMS, Algorithm, CalibrationOptions
from calibrators.ranges.calibrate import observe_over, ranges_from_observed
from calibrators.zscgan.sampling import (
    TrainedGenerator,
    load_generator,
    save_generator,
)
from converter.console import Console
from converter.graph.capture import FoldedGraph, graph_from_model, observe
from converter.job import SampleUse
from converter.load.model import Teacher
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.samples import GeneratorSamples
from converter.stages.judges import judges_of
from converter.stages.synthesis import generated_samples, generator_from_teacher
from converter.trust.answers import array_of
from converter.trust.calibrator_choice import choose_calibrator, divergences
from converter.trust.prediction import BorderBatches, inputs_for
from converter.trust.task.classes import Classes
from converter.trust.trial_engine import UNQUANTIZED, run_trial

NETWORKS = ("resnet20", "resnet56", "efficientnet_lite0", "digits")
IMAGES = 2_000


@dataclass(frozen=True)
class Result:
    """One calibrator: its divergence on samples in nats, and what its network does on real images, in percent."""

    divergence: float
    top1: float
    same_class: float
    top1_as_good: bool
    same_class_as_good: bool


@dataclass(frozen=True)
class Row:
    """One network and seed."""

    network: str
    seed: int
    images: int
    fp32_top1: float
    chosen: Algorithm
    results: dict[Algorithm, Result]


@dataclass(frozen=True)
class Subject:
    """A classifier with the images that measure."""

    name: str
    teacher: Teacher
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def subject_from_data(name: str, data: Path, work: Path) -> Subject:
    """The network ``name`` with its images."""
    if name == "digits":
        val, teacher = digits()
        return Subject(name, teacher, *images(val, teacher, IMAGES))
    network = network_from_data(name, data, work)
    val, teacher = from_network(network)
    x, y = images(val, teacher, IMAGES)
    if name != "efficientnet_lite0":  # its other images are for calibration
        more_x, more_y = images(network.calib, teacher, IMAGES - len(y))
        x, y = np.concatenate([x, more_x]), np.concatenate([y, more_y])
    return Subject(name, teacher, x, y)


def images(path: Path, teacher: Teacher, limit: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """At most ``limit`` images as the network takes them, and their labels."""
    batches = images_from_path(
        path,
        teacher.spec,
        batch_size=batch_of(teacher.spec.shape),
        limit=limit,
        require_labels=True,
        classes=task_of(teacher).classes,
    )
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs).numpy(), torch.cat(ys).numpy()


def generator_of(subject: Subject, seed: int, folder: Path) -> TrainedGenerator:
    """The generator in ``folder``, trained and kept there if there is none."""
    teacher, path = subject.teacher, folder / f"{subject.name}-{seed}.pt"
    weights, cpu = fingerprint(teacher.module.state_dict()), torch.device("cpu")
    if path.exists():
        return load_generator(path, fingerprint=weights, spec=teacher.spec, device=cpu)
    trained = generator_from_teacher(
        teacher,
        task_of(teacher),
        weights,
        gan_options_of(teacher, seed=seed),
        checkpoint=path.with_suffix(".checkpoint"),
        device=cpu,
        console=Console(quiet=True),
    )
    save_generator(trained, path)
    return trained


def ranges_of(
    graph: FoldedGraph, generated: GeneratorSamples, samples: Batches
) -> dict[Algorithm, dict[str, float]]:
    """The ranges of each calibrator on these samples; that of the input is known."""
    spec = generated.trained.generator.config.spec
    seen = observe_over(
        lambda x: observe(graph.module, x, graph.activations)[1], samples, samples.num_samples
    )
    known = {graph.activations[0]: max(map(abs, (*spec.low, *spec.high)))}
    return {
        algorithm: dict(ranges_from_observed(seen, CalibrationOptions(algorithm=algorithm)).amax) | known
        for algorithm in ALGORITHMS
    }


def row_of(subject: Subject, seed: int, folder: Path) -> Row:
    """The choice for one network and seed, beside what each calibrator is worth on the images."""
    teacher = subject.teacher
    graph, batch = graph_from_model(teacher.module, teacher.spec), batch_of(teacher.spec.shape)
    plan, trained = place_quantizers(graph.onnx), generator_of(subject, seed, folder)
    generated = generated_samples(teacher, task_of(teacher), trained, gan_options_of(teacher, seed=seed))
    samples, count = calibration_samples(generated, teacher.spec, seed), inputs_for(batch)
    ranges, choosing = ranges_of(graph, generated, samples), seed + SampleUse.CHOOSING
    chosen_on = samples if generated.guide_steps else generated.batches(count, batch, choosing)
    task = task_of(teacher)
    x = array_of(first_inputs(BorderBatches(chosen_on, choosing), judges_of(task, generated, count)))
    found = divergences(ranges, graph, plan, task, x)
    fp32 = classes_of(graph, UNQUANTIZED, {}, task, subject.images)
    said = {name: classes_of(graph, plan, amax, task, subject.images) for name, amax in ranges.items()}
    right = {name: classes == subject.labels for name, classes in said.items()}
    same = {name: classes == fp32 for name, classes in said.items()}
    return Row(
        subject.name,
        seed,
        len(fp32),
        100 * float(np.mean(fp32 == subject.labels)),
        choose_calibrator(found),
        {
            name: Result(
                float(found[name].mean()),
                100 * float(right[name].mean()),
                100 * float(same[name].mean()),
                as_good_as_best(right, name),
                as_good_as_best(same, name),
            )
            for name in ranges
        },
    )


def classes_of(
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: dict[str, float],
    task: Classes,
    x: NDArray[np.float32],
) -> NDArray[np.int64]:
    """The class that a quantization chooses for each image."""
    with run_trial(graph, plan, amax) as network:
        return np.array(task.answers(network(x)))


def as_good_as_best(passed: dict[Algorithm, NDArray[np.bool_]], name: Algorithm) -> bool:
    """Whether ``name`` is the best by what passed, or no worse than it by more than one standard error."""
    best = max(passed.values(), key=lambda which: int(which.sum()))
    differing = int((best != passed[name]).sum())
    return int(best.sum()) - int(passed[name].sum()) <= differing**0.5


def table(rows: list[Row]) -> str:
    """Markdown: a line for each network, seed and calibrator, then how often each is as good as the best."""
    lines = [
        "| network, seed | FP32 | calibrator | divergence on samples | top-1 | same class | within one standard error "
        "of the best: top-1, same class |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for name, result in row.results.items():
            shown = f"**{name}**" if name == row.chosen else name
            good = ", ".join(
                "yes" if fine else "no" for fine in (result.top1_as_good, result.same_class_as_good)
            )
            lines.append(
                f"| {row.network}, {row.seed} | {row.fp32_top1:.2f} | {shown} | {result.divergence:.2e} | "
                f"{result.top1:.2f} | {result.same_class:.2f} | {good} |"
            )
    lines += ["", "| taken | top-1 | same class |", "| --- | --- | --- |"]
    for name in ("auto", *ALGORITHMS):
        taken = [row.results[row.chosen if name == "auto" else name] for row in rows]
        top1, same = sum(r.top1_as_good for r in taken), sum(r.same_class_as_good for r in taken)
        lines.append(f"| {name} | {top1} of {len(rows)} | {same} of {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--network", default=",".join(NETWORKS), help="with commas between [default: all]")
    parser.add_argument("--seeds", default="0", help="of the generators, with commas between")
    parser.add_argument(
        "--generators", type=Path, help="keep the generators here [default: a temporary folder]"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as work:
        folder = given.generators or Path(work)
        folder.mkdir(parents=True, exist_ok=True)
        for name in given.network.split(","):
            subject = subject_from_data(name, given.data, Path(work))
            for seed in map(int, given.seeds.split(",")):
                rows.append(row_of(subject, seed, folder))
                print(table(rows[-1:]), flush=True)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
