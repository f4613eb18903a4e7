"""How much of what FP32 says INT8 says as well, on real images, by what it was calibrated with; for any task.

    python benchmarks/tasks.py yolo-fastestv2.onnx --images FOLDER --preset unit --input-shape 3x352x352

Of the images, half calibrate (the source ``images``) and half judge. All sources are measured in the same run: samples
of the generator (``zscgan``), these and procedural images half and half (``both``), procedural images alone, other real
images and Gaussian noise in the network's normalisation. The calibrator is chosen as a conversion does it, on inputs of
the same source. Prints a row a source and seed (real images and noise: of the first seed alone), and writes all to
``--json``.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from observed import range_errors
from PIL import Image
from torch import Tensor

from calibrators.data.batches import Batch, Batches, TensorBatches, first_inputs
from calibrators.data.images import SUFFIXES
from calibrators.data.input_spec import InputSpec
from calibrators.kernels import exact_kernels
from calibrators.options import CalibrationOptions
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import VERSION, TrainedGenerator, load_generator, save_generator
from converter.console import Console
from converter.graph.capture import FoldedGraph
from converter.job import Job, job_from_options
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.out_of_memory import training_batch
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.samples import ProceduralSamples
from converter.stages.calibration import measure_ranges, with_exact_input
from converter.stages.capture import graph_of
from converter.stages.synthesis import generated_for, generator_for, samples_from
from converter.trust.answers import Answers, answers, array_of
from converter.trust.calibrator_choice import choose_calibrator, divergences
from converter.trust.prediction import BorderBatches
from converter.trust.trial_engine import UNQUANTIZED, run_trial

JUDGING = 1


@dataclass(frozen=True)
class Row:
    """One source: agreement in percent with its standard error, and the ranges beside those of real images."""

    source: str
    seed: int
    calibrator: str
    agreement: float
    standard_error: float
    median_range_error: float
    largest_range_error: float
    seconds: float


def arguments(description: str | None, judged: int) -> argparse.ArgumentParser:
    """MODEL with its input, the images, and how many of them judge: what ``options_of`` and ``halves`` take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--preset")
    parser.add_argument("--mean")
    parser.add_argument("--std")
    parser.add_argument("--input-shape")
    parser.add_argument("--arch")
    parser.add_argument("--task", default="auto")
    parser.add_argument("--bgr", action="store_true")
    parser.add_argument("--steps", type=int, default=ZSCGANOptions.steps)
    parser.add_argument("--batch", type=int, default=ZSCGANOptions.batch)
    parser.add_argument("--samples", type=int, default=CalibrationOptions.samples)
    parser.add_argument("--judged", type=int, default=judged)
    parser.add_argument("--json", type=Path)
    return parser


def given() -> argparse.Namespace:
    """The command line."""
    parser = arguments(__doc__, judged=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sources", default="zscgan,both,procedural,images,noise")
    return parser.parse_args()


def numbers(text: str | None) -> tuple[float, ...] | None:
    """A number for each channel."""
    return None if text is None else tuple(map(float, text.split(",")))


def options_of(args: argparse.Namespace, seed: int) -> ConvertOptions:
    """Those of a conversion."""
    shape = None if args.input_shape is None else tuple(map(int, args.input_shape.split("x")))
    return ConvertOptions(
        model=ModelOptions(
            model=args.model,
            arch=args.arch,
            input_shape=shape,  # type: ignore[arg-type]
            preset=args.preset,
            mean=numbers(args.mean),
            std=numbers(args.std),
            channel_order="bgr" if args.bgr else "rgb",
        ),
        synthesis=ZSCGANOptions(steps=args.steps, batch=args.batch, seed=seed),
        calibration=CalibrationOptions(samples=args.samples),
        engine="onnxruntime",
        task=args.task,
    )


@dataclass(frozen=True)
class Stretched:
    """Images stretched to the input's size, in the network's order."""

    files: list[Path]
    spec: InputSpec
    batch_size: int

    @property
    def num_samples(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.files), self.batch_size):
            x = torch.stack([self._image(file) for file in self.files[start : start + self.batch_size]])
            yield x, torch.full((len(x),), -1)

    def _image(self, file: Path) -> Tensor:
        channels, height, width = self.spec.shape
        with Image.open(file) as image:
            pixels = np.asarray(
                image.convert("RGB" if channels == 3 else "L").resize((width, height)), np.float32
            )
        x = torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.spec.mean, self.spec.std))
        return ((x.flip(0) if self.spec.channel_order == "bgr" else x) - mean) / std


def halves(job: Job, args: argparse.Namespace) -> tuple[Batches, Batches]:
    """Images to calibrate with, and others to judge by."""
    files = sorted(file for file in args.images.iterdir() if file.suffix in SUFFIXES)
    order = np.random.default_rng(0).permutation(len(files))
    shuffled = [files[place] for place in order]
    calibrating, judged = shuffled[args.judged :][: args.samples], shuffled[: args.judged]
    one, other = (Stretched(part, job.teacher.spec, job.batch) for part in (calibrating, judged))
    return one, other


def noise(job: Job, count: int, seed: int) -> Batches:
    """Gaussian noise in the network's normalisation: what a user without data would type."""
    x = torch.randn(count, *job.teacher.spec.shape, generator=torch.Generator().manual_seed(seed))
    return TensorBatches(x, torch.full((count,), -1), job.batch)


def trained_for(job: Job, seed: int) -> TrainedGenerator:
    """A generator; of several sources the same."""
    place = (
        Path(tempfile.gettempdir())
        / f"tasks-{VERSION}-{job.ranges_for[:16]}-{job.options.synthesis.steps}-{training_batch(job)}-{seed}.pt"
    )
    if place.exists():
        return load_generator(place, fingerprint=job.fingerprint, spec=job.teacher.spec, device=job.device)
    trained = generator_for(job)
    assert trained is not None
    save_generator(trained, place)
    return trained


def data_of(source: str, job: Job, real: Batches, seed: int) -> tuple[Batches, Batches]:
    """Inputs to calibrate with, and others of the same source to choose the calibrator by."""
    if source == "images":
        return real, real
    if source == "noise":
        return noise(job, job.options.calibration.samples, seed), noise(job, 256, seed + 1000)
    if source == "procedural":
        samples = ProceduralSamples(job.teacher.spec, job.device)
        return job.samples(samples), samples.batches(256, job.batch, seed + JUDGING)
    generated = generated_for(job, trained_for(job, seed))
    if source == "zscgan":
        return job.samples(generated), generated.batches(256, job.batch, seed + JUDGING)
    made = samples_from(job, generated)
    return job.calibration_data(made), made.batches(256, job.batch, seed + JUDGING)


def measured(
    source: str, seed: int, job: Job, graph: FoldedGraph, plan: QuantizationPlan, real: Batches, judged: Batches,
    fp32: Answers, true: dict[str, dict[str, float]],
) -> Row:  # fmt: skip
    """One source with one seed."""
    started = time.perf_counter()
    data, others = data_of(source, job, real, seed)
    results = measure_ranges(job, graph, data)
    seconds = time.perf_counter() - started
    exact = source not in {"noise", "images"}
    candidates = {
        name: (with_exact_input(result, job, graph) if exact else dict(result.amax))
        for name, result in results.items()
    }
    judges = array_of(first_inputs(BorderBatches(others, seed), 128))
    chosen = choose_calibrator(divergences(candidates, graph, plan, job.task, judges))
    if source == "images":
        true.update({str(name): amax for name, amax in candidates.items()})
    with run_trial(graph, plan, candidates[chosen]) as network:
        found = fp32.agreement(answers(network, job.task, judged, fp32.truths))
    entropy = range_errors(
        {name: candidates["entropy"][name] for name in plan.observed},
        {name: true["entropy"][name] for name in plan.observed},
    )
    apart = [abs(value) for value in entropy.values()]
    return Row(source, seed, chosen, found.percent, found.standard_error, median(apart), max(apart), seconds)


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """All sources and seeds; real images first, whose ranges the others are compared with."""
    true: dict[str, dict[str, float]] = {}
    console = Console()
    for seed in range(args.seeds):
        job = job_from_options(options_of(args, seed), console)
        graph = graph_of(job)
        plan = place_quantizers(graph.onnx)
        real, judged = halves(job, args)
        with run_trial(graph, UNQUANTIZED, {}) as network:
            fp32 = answers(network, job.task, judged, ())
        for source in sorted(args.sources.split(","), key=lambda name: name != "images"):
            if source in {"images", "noise"} and seed:
                continue
            if source == "zscgan" and not job.teacher.bn_layers:
                continue
            yield measured(source, seed, job, graph, plan, real, judged, fp32, true)


@exact_kernels()
def main() -> None:
    """Prints the table."""
    args = given()
    found = []
    for row in rows(args):
        found.append(row)
        print(
            f"{Path(args.model).name} {row.source:<11} seed {row.seed} {row.calibrator:<10} agreement "
            f"{row.agreement:.2f} % (se {row.standard_error:.2f}), range error {row.median_range_error:.2f} median, "
            f"{row.largest_range_error:.2f} largest, {row.seconds:.0f} s",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
