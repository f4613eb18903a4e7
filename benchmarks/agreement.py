"""How near the agreement that a conversion measures on samples is to that on real images; for any task.

    python benchmarks/agreement.py yolo-fastestv2.onnx --images FOLDER --preset unit --json FILE

The network is quantized in the ways of ``quantizations.py`` (8 and 6 bits, weights, activations or both, all
calibrators, ranges from samples and from noise), simulated. Of each the agreement with FP32 is measured twice: on
``--judged`` images, none of which calibrated anything, and on fresh samples, as many as a conversion compares (at most
``--fresh``). Prints a row for each and how the two compare, together with those that ``--beside`` names files of.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tasks
import torch
from numpy.typing import NDArray
from observed import histograms
from prediction import spearman
from quantizations import NOISE, noise, quantizations_of
from torch import nn

from calibrators.data.batches import Batches
from calibrators.kernels import exact_kernels
from calibrators.options import CalibrationOptions
from converter.console import Console
from converter.graph.outputs import tensors_of
from converter.job import Job, SampleUse, job_from_options
from converter.quantize.placement import place_quantizers
from converter.samples import SampleSource
from converter.stages.capture import graph_of
from converter.stages.judges import judges_of
from converter.stages.synthesis import generated_for, samples_from
from converter.trust.answers import Answers, answers
from converter.trust.task.base import Agreement, Outputs

BITS = (8, 6)


@dataclass(frozen=True)
class Row:
    """One quantization: agreement with FP32 in percent, with its standard error, on images and on fresh samples."""

    network: str
    case: str
    images: float
    images_error: float
    samples: float
    samples_error: float


def given() -> argparse.Namespace:
    """The command line."""
    parser = tasks.arguments(__doc__, judged=256)
    parser.add_argument("--fresh", type=int, default=256)
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], metavar="FILE", help="rows of other networks"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class Inputs:
    """Inputs of one kind, with what FP32 says to them."""

    batches: Batches
    fp32: Answers

    def agreement(self, job: Job, network: nn.Module) -> Agreement:
        """How much of that ``network`` says as well."""
        return self.fp32.agreement(said(job, network, self.batches))


def said(job: Job, network: nn.Module, batches: Batches) -> Answers:
    """The answers of ``network``."""

    @torch.no_grad()
    def outputs(x: NDArray[np.float32]) -> Outputs:
        found = tensors_of(network(torch.from_numpy(x).to(job.device)))
        return tuple(value.cpu().numpy() for value in found)

    return answers(outputs, job.task, batches, ())


def source_of(job: Job) -> SampleSource:
    """The samples of a conversion without data."""
    generated = None if job.procedural else generated_for(job, tasks.trained_for(job, job.seed))
    return samples_from(job, generated)


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """All quantizations of the network."""
    job = job_from_options(tasks.options_of(args, 0), Console())
    graph = graph_of(job)
    plan, source = place_quantizers(graph.onnx), source_of(job)
    _, real = tasks.halves(job, args)
    count = min(args.fresh, judges_of(job.task, source, CalibrationOptions.samples))
    images, fresh = (
        Inputs(batches, said(job, graph.module, batches))
        for batches in (real, job.samples(source, SampleUse.JUDGING, count))
    )
    seen = {
        "samples": histograms(graph, plan, job.calibration_data(source), job.device),
        "noise": histograms(graph, plan, noise(job.teacher, NOISE, job.batch), job.device),
    }
    for case in quantizations_of(BITS):
        network = case.network(graph, plan, seen, job.teacher)
        on_images, on_samples = (inputs.agreement(job, network) for inputs in (images, fresh))
        yield Row(
            Path(args.model).stem,
            str(case),
            on_images.percent,
            on_images.standard_error,
            on_samples.percent,
            on_samples.standard_error,
        )


def figures(found: list[Row]) -> str:
    """How the disagreement on samples compares with that on images."""
    real, fresh = (np.array([100 - getattr(row, name) for row in found]) for name in ("images", "samples"))
    some = real > 0
    ratio = float(np.median(fresh[some] / real[some])) if some.any() else float("nan")
    apart = np.abs(fresh - real)
    return (
        f"{len(found)} quantizations: rank correlation {spearman(real, fresh):.2f}, samples / images {ratio:.2f} in "
        f"the median, error {np.median(apart):.1f} points in the median, {apart.max():.1f} at most"
    )


def summary(found: list[Row]) -> str:
    """A line for each network, for all of them, and for W8A8 alone."""
    groups = {
        name: [row for row in found if row.network == name]
        for name in dict.fromkeys(r.network for r in found)
    }
    groups["all"] = found
    lines = []
    for name, some in groups.items():
        int8 = [row for row in some if row.case.startswith("W8A8")]
        lines += [f"{name}: {figures(some)}", f"{name}, W8A8: {figures(int8)}"]
    return "\n".join(lines)


@exact_kernels()
def main() -> None:
    """Prints the rows and their summary."""
    args = given()
    others = [Row(**row) for path in args.beside for row in json.loads(path.read_text())]
    found = list[Row]()
    for row in rows(args):
        found.append(row)
        print(
            f"{row.network} {row.case}: images {row.images:.2f} % (se {row.images_error:.2f}), samples "
            f"{row.samples:.2f} % (se {row.samples_error:.2f})",
            flush=True,
        )
    print(summary([*others, *found]))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in found], indent=2) + "\n")


if __name__ == "__main__":
    main()
