"""Calibration samples of one source, made in this process so that its time and memory can be measured.

``fidelity.py`` runs it: ``python benchmarks/sources.py NETWORK.json SAMPLES.npz OPTIONS``, with the fields of
``SourceOptions`` as JSON. The archive has ``x`` (normalised, float32) and ``y``; a ``.json`` beside it says what
was done and how long it took.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conversion import Network, noise_file
from jaxtyping import Float, Int
from torch import Tensor
from trial import (
    SourceOptions,
    batch_of,
    calibration_images,
    gan_options_of,
    load_network,
    task_of,
    teacher_from_network,
    with_procedural,
)
from zeroq import distilled

from calibrators.data.batches import Batches
from calibrators.data.images import UNKNOWN, images_from_path
from calibrators.fingerprint import fingerprint
from calibrators.kernels import exact_kernels
from converter.console import Console
from converter.job import device_from_name
from converter.load.model import Teacher
from converter.samples import ProceduralSamples
from converter.stages.synthesis import generated_samples, generator_from_teacher

ZEROQ_BATCH, ZEROQ_LARGE_BATCH = 64, 32
SMALL_INPUT = 96


@dataclass(frozen=True)
class Samples:
    """Normalised inputs and labels (-1: unknown), with what is worth telling of how they were made."""

    x: Float[Tensor, "samples channels height width"]
    y: Int[Tensor, "samples"]
    detail: dict[str, Any]


def from_batches(batches: Batches, detail: dict[str, Any]) -> Samples:
    """All batches together."""
    x, y = zip(*batches, strict=True)
    return Samples(torch.cat(x).cpu(), torch.cat(y).cpu(), detail)


def unlabelled(x: Float[Tensor, "samples channels height width"], detail: dict[str, Any]) -> Samples:
    """Inputs of unknown classes."""
    return Samples(x.cpu(), torch.full((len(x),), UNKNOWN), detail)


def images(teacher: Teacher, network: Network, options: SourceOptions, _work: Path) -> Samples:
    """Real images, others for each seed."""
    batches = calibration_images(network, teacher.spec, options.seed + 1, options.samples)
    return from_batches(batches, {})


def noise(teacher: Teacher, network: Network, options: SourceOptions, work: Path) -> Samples:
    """Gaussian or uniform valid pixels."""
    path = noise_file(options.source, network, work, options.seed)
    batches = images_from_path(
        path, teacher.spec, batch_size=batch_of(teacher.spec.shape), limit=options.samples
    )
    return from_batches(batches, {})


def zscgan(teacher: Teacher, _network: Network, options: SourceOptions, _work: Path) -> Samples:
    """Samples of the project's generator, trained and drawn as a conversion does it, as many as were asked for.

    Of the source ``both`` half are procedural images.
    """
    gan = gan_options_of(teacher, **{"seed": options.seed, **options.gan})
    trained = generator_from_teacher(
        teacher,
        task_of(teacher),
        fingerprint(teacher.module.state_dict()),
        gan,
        checkpoint=None,  # a training that goes on from an earlier one would take no time
        device=next(teacher.module.parameters()).device,
        console=Console(),
    )
    batch = gan.batch_for(*teacher.spec.shape[1:])
    samples = generated_samples(teacher, task_of(teacher), trained, gan)
    source = with_procedural(samples, teacher.spec) if options.source == "both" else samples
    batches = source.batches(options.samples, batch, gan.seed)
    return from_batches(batches, {"steps": len(trained.history), "batch": batch})


def procedural(teacher: Teacher, _network: Network, options: SourceOptions, _work: Path) -> Samples:
    """Procedural images, drawn as a conversion does it: no training, nothing known but the input's shape."""
    device = next(teacher.module.parameters()).device
    batch = batch_of(teacher.spec.shape)
    return from_batches(
        ProceduralSamples(teacher.spec, device).batches(options.samples, batch, options.seed), {}
    )


def zeroq(teacher: Teacher, _network: Network, options: SourceOptions, _work: Path) -> Samples:
    """Distilled images, one batch of them by default as in the authors' code."""
    batch = ZEROQ_BATCH if max(teacher.spec.shape[1:]) <= SMALL_INPUT else ZEROQ_LARGE_BATCH
    made = [
        distilled(
            teacher.module,
            teacher.spec.shape,
            batch,
            options.zeroq_iterations,
            options.seed * 1000 + number,
            options.zeroq_stop,
        )
        for number in range(options.zeroq_batches)
    ]
    detail = {"iterations": [done for _, done in made], "batch": batch}
    return unlabelled(torch.cat([x for x, _ in made]), detail)


def mct(teacher: Teacher, network: Network, options: SourceOptions, work: Path) -> Samples:
    """Images of Sony's Model Compression Toolkit, made by the interpreter that has it."""
    if options.mct_python is None:
        raise SystemExit(
            "expected an interpreter that has model-compression-toolkit: type --mct-python PATH "
            "(python -m venv FOLDER; FOLDER/bin/pip install model-compression-toolkit torch torchvision)"
        )
    weights, output = work / "mct-weights.pt", work / "mct-images.npz"
    torch.save(teacher.module.state_dict(), weights)
    settings = {
        "arch": network.arch,
        "images": options.mct_images or options.samples,
        "iterations": options.mct_iterations,
        "seed": options.seed,
        "mean": teacher.spec.mean,
        "std": teacher.spec.std,
        "size": teacher.spec.shape[1:],
    }
    script = Path(__file__).with_name("mct_images.py")
    command = [options.mct_python, str(script), str(weights), str(output), json.dumps(settings)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    with np.load(output) as archive:
        return unlabelled(torch.from_numpy(archive["x"]), json.loads(str(archive["detail"])))


Source = Callable[[Teacher, Network, SourceOptions, Path], Samples]
SOURCES: dict[str, Source] = {
    "both": zscgan,
    "zscgan": zscgan,
    "procedural": procedural,
    "images": images,
    "gaussian": noise,
    "uniform": noise,
    "mct": mct,
    "zeroq": zeroq,
}


@exact_kernels()
def main(network_path: Path, output: Path, options: SourceOptions) -> None:
    """Makes the samples and writes both files; the time is without imports and without loading the network."""
    network = load_network(network_path)
    teacher = teacher_from_network(network)
    teacher.module.to(device_from_name(options.device))
    work = output.with_suffix(".work")
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    samples = SOURCES[options.source](teacher, network, options, work)
    seconds = time.perf_counter() - started
    np.savez(output, x=samples.x.contiguous().numpy(), y=samples.y.numpy())
    document = {"key": options.key(), "samples": len(samples.x), "seconds": seconds, **samples.detail}
    output.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), SourceOptions(**json.loads(sys.argv[3])))
