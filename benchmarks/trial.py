"""What the processes of ``fidelity.py`` share: the network under test, its teacher and its real images."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from conversion import ARCHITECTURES, NETWORKS, Network

NAMES = {
    "resnet20": "cifar10-resnet20",
    "resnet56": "cifar10-resnet56",
    "efficientnet_lite0": "efficientnet-lite0",
}
SAMPLES = 512
"""Inputs of a calibration, the default of the converter."""

REFERENCE = 0
"""The part of the real images that gives the true ranges; part ``seed + 1`` is the source ``images``."""


@dataclass(frozen=True)
class SourceOptions:
    """One run of one source: all that its samples depend on, besides the network.

    ``gan`` overrides fields of ZSCGANOptions. ``mct_iterations`` of 0 means the package's own default,
    ``mct_images`` of 0 means ``samples``. ``zeroq_stop`` of 0 means all iterations.
    """

    source: str
    seed: int
    samples: int = SAMPLES
    device: str = "cpu"
    gan: dict[str, Any] = field(default_factory=dict)
    zeroq_iterations: int = 500
    zeroq_batches: int = 1
    zeroq_stop: float = 5.0
    mct_python: str | None = None
    mct_iterations: int = 0
    mct_images: int = 0

    def key(self) -> dict[str, Any]:
        """The fields that the samples of this source depend on; equal keys may share their samples."""
        given = asdict(self)
        owners = {"zscgan": "gan", "both": "gan", "zeroq": "zeroq_", "mct": "mct_"}
        others = ("mct_python", *({*owners.values()} - {owners.get(self.source)}))
        return {name: value for name, value in given.items() if not name.startswith(others)}


def network_from_data(name: str, data: Path, folder: Path) -> Network:
    """The network ``name`` with its images; what has to be cut out of other files goes to ``folder``."""
    return NETWORKS[NAMES[name]](NAMES[name], data, folder)


def save_network(network: Network, path: Path) -> Path:
    """Write the network's description for the other processes."""
    path.write_text(json.dumps(asdict(network), default=str, indent=2) + "\n")
    return path


def load_network(path: Path) -> Network:
    """The network of ``save_network``."""
    given = json.loads(path.read_text())
    paths = {name: Path(given[name]) for name in ("weights", "val", "calib")}
    values = {name: tuple(given[name]) for name in ("shape", "mean", "std")}
    return Network(**{**given, **paths, **values})


def parts_of(network: Network) -> int:
    """How many sets of ``SAMPLES`` images without a common one there are; one image at least stays over."""
    with np.load(network.calib) as archive:
        return int((len(archive["labels"]) - 1) // SAMPLES)


def task_of(teacher: Any) -> Any:
    """The task of a classifier: the converter's Classes."""
    from converter.trust.task.classes import Classes

    (logits,) = teacher.probe.values()
    return Classes(logits.shape[1])


def teacher_from_network(network: Network) -> Any:
    """The converter's Teacher: the classifier in eval mode with the description of its input."""
    from converter.load.model import load_model
    from converter.load.options import ModelOptions

    return load_model(
        ModelOptions(
            str(network.weights),
            arch=f"{ARCHITECTURES}:{network.arch}",
            input_shape=network.shape,
            mean=network.mean,
            std=network.std,
        )
    )


def batch_of(shape: tuple[int, int, int]) -> int:
    """Inputs at once, as the converter has it."""
    from calibrators.zscgan.options import ZSCGANOptions

    return ZSCGANOptions().batch_for(*shape[1:])


def gan_options_of(teacher: Any, **fields: Any) -> Any:
    """The ZSCGANOptions of a conversion, with these ``fields`` of its own."""
    from calibrators.zscgan.options import ZSCGANOptions

    options = ZSCGANOptions(**fields).for_labels(task_of(teacher).classes, *teacher.spec.shape[1:])
    return replace(options, **fields)


def calibration_samples(generated: Any, spec: Any, seed: int) -> Any:
    """The batches of samples that calibrate in a conversion: those of a generator and as many procedural images."""
    from converter.job import calibrating_of
    from converter.samples import GeneratorSamples

    count = calibrating_of(generated, spec.shape, SAMPLES)
    source = with_procedural(generated, spec) if isinstance(generated, GeneratorSamples) else generated
    return source.batches(count, batch_of(spec.shape), seed)


def with_procedural(generated: Any, spec: Any) -> Any:
    """Those of a generator and as many procedural images, on the CPU."""
    import torch

    from converter.samples import samples_of_kind

    return samples_of_kind("both", generated, spec, torch.device("cpu"))


def calibration_images(network: Network, spec: Any, part: int, count: int = SAMPLES) -> Any:
    """``count`` real images as batches, evenly over the classes; the parts have no image in common.

    Where the images don't suffice for that, every part is the same: the first ``count`` of all images.
    """
    from calibrators.data.images import images_from_path

    part = part if part < parts_of(network) else 0
    limit = (part + 1) * SAMPLES
    images = images_from_path(network.calib, spec, batch_size=batch_of(spec.shape), limit=limit)
    return replace(images, order=images.order[part * SAMPLES :][:count])


def judged_images(network: Network, spec: Any, count: int, classes: int) -> Any:
    """``count`` labelled images as batches: the last of those that calibrate, where these are more than are needed."""
    from calibrators.data.images import images_from_path

    images = images_from_path(
        network.calib, spec, batch_size=batch_of(spec.shape), require_labels=True, classes=classes
    )
    return replace(images, order=images.order[-count:])
