"""Samples of a trained generator, its file, and its picture."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from calibrators.data.batches import Batch
from calibrators.data.input_spec import InputSpec
from calibrators.errors import GeneratorError
from calibrators.kernels import exact_kernels
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator, GeneratorConfig
from calibrators.zscgan.guidance import Guide
from zscgan_common.files import write_atomic
from zscgan_common.text import first_line

FORMAT = "zscgan-convert generator"
VERSION = 3


@dataclass(frozen=True)
class SyntheticBatches:
    """``num_samples`` labelled samples, evenly over generators and classes; the same each time for the same seed.

    Images are not stored, each iteration runs the generator again. With a ``guide``, they are guided in its batches,
    whatever ``batch_size`` is.
    """

    generator: Ensemble
    num_samples: int
    batch_size: int
    seed: int
    guide: Guide | None = None
    origin: ClassVar[Literal["zscgan"]] = "zscgan"

    def __iter__(self) -> Iterator[Batch]:
        return self.every(0, 1)

    def every(self, first: int, step: int) -> Iterator[Batch]:
        """Every ``step``-th batch, from the ``first`` on; the others are not made."""
        self.generator.eval()
        whole = 1 if self.guide is None else self.guide.batch
        z, conditions = self.generator.draw(-(-self.num_samples // whole) * whole, self.seed, 0)
        for start in range(first * self.batch_size, self.num_samples, step * self.batch_size):
            stop = min(start + self.batch_size, self.num_samples)
            x, labels = self._made(z, conditions, start, stop)
            yield x, labels.to(x.device)

    @torch.no_grad()
    def _made(self, z: Tensor, conditions: Tensor, start: int, stop: int) -> Batch:
        """The samples of these rows."""
        if self.guide is None:
            with exact_kernels():
                return self.generator(z[start:stop], conditions[start:stop]), conditions[start:stop, 1]
        size = self.guide.batch
        before = start // size * size
        places = [slice(at, at + size) for at in range(before, stop, size)]
        parts = [self.guide.samples(self.generator, z[rows], conditions[rows]) for rows in places]
        x, labels = map(torch.cat, zip(*parts, strict=True))
        return x[start - before : stop - before], labels[start - before : stop - before]


@dataclass(frozen=True)
class TrainedGenerator:
    """Generators with where they came from: the classifier's fingerprint, their losses, the seconds they took."""

    generator: Ensemble
    fingerprint: str
    history: tuple[tuple[int, float, float], ...]
    seconds: float


def save_generator(trained: TrainedGenerator, path: Path) -> Path:
    """Write ``generator.pt``: plain values and tensors, read back with ``weights_only=True``."""
    return save_torch(
        {
            "format": FORMAT,
            "version": VERSION,
            "config": asdict(trained.generator.config),
            "generators": len(trained.generator.members),
            "weights": {name: value.cpu() for name, value in trained.generator.state_dict().items()},
            "fingerprint": trained.fingerprint,
            "history": list(trained.history),
            "seconds": trained.seconds,
        },
        path,
    )


def load_generator(
    path: Path, *, fingerprint: str, spec: InputSpec, device: torch.device
) -> TrainedGenerator:
    """The generator of ``generator.pt``, for the classifier and the inputs that it was trained for.

    Raises GeneratorError for a file that can't be read, is something else, or belongs to another model.
    """
    document = load_torch(path)
    try:
        return generator_from_document(document, path, fingerprint, spec, device)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise GeneratorError(
            f"expected {path} to be a whole generator of this version, but it is not ({first_line(error)}); "
            "leave --generator out to train one"
        ) from error


def generator_from_document(
    document: dict[str, Any], path: Path, fingerprint: str, spec: InputSpec, device: torch.device
) -> TrainedGenerator:
    """The generator in the content of ``generator.pt``."""
    if document.get("format") != FORMAT:
        raise GeneratorError(
            f"expected {path} to be a generator that zscgan-convert saved; check --generator"
        )
    if document["version"] != VERSION:
        raise GeneratorError(
            f"expected {path} to be a generator of format {VERSION}, but it is of format {document['version']}, which "
            "another version of zscgan-convert saved; leave --generator out to train one"
        )
    if document["fingerprint"] != fingerprint:
        raise GeneratorError(
            f"expected {path} to be trained for this model (fingerprint {fingerprint[:12]}), but it was trained "
            f"for another ({document['fingerprint'][:12]}); leave --generator out to train one"
        )
    values = document["config"]
    config = GeneratorConfig(**{**values, "spec": InputSpec(**values["spec"])})
    if config.spec != spec:
        raise GeneratorError(
            f"expected {path} to give inputs {spec}, but it gives {config.spec}; "
            "leave --generator out, or give the same --input-shape, --mean, --std and --channel-order"
        )
    weights = document["weights"]
    _check_weights(weights, config, document["generators"])
    ensemble = Ensemble(Generator(config) for _ in range(document["generators"]))
    ensemble.load_state_dict(weights)
    ensemble = ensemble.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    history = tuple((int(step), float(kl), float(label)) for step, kl, label in document["history"])
    return TrainedGenerator(ensemble.eval(), fingerprint, history, float(document["seconds"]))


def _check_weights(weights: Mapping[str, Tensor], config: GeneratorConfig, generators: int) -> None:
    """Raise ValueError where ``weights`` are not those of such generators, before memory is taken for them."""
    if config.classes < 1 or not 1 <= generators <= len(weights):
        raise ValueError(f"{generators} generators of {config.classes} classes")
    with torch.device("meta"):
        expected = Ensemble(Generator(config) for _ in range(generators)).state_dict()
    for name in expected.keys() | weights.keys():
        value = weights.get(name)
        if name not in expected or not isinstance(value, Tensor) or value.shape != expected[name].shape:
            raise ValueError(f"tensor {name} is missing, unknown or of another shape")
        if value.is_complex() or not torch.isfinite(value).all():
            raise ValueError(f"tensor {name} holds values that are not finite")


def save_torch(document: dict[str, Any], path: Path) -> Path:
    """Write ``document`` by ``torch.save``, whole or not at all."""
    return write_atomic(path, bytes_of_torch(document))


def bytes_of_torch(document: dict[str, Any]) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


def load_torch(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """A document of ``save_torch`` in ``path``, or in this part of it; no code in it is ever run.

    Raises GeneratorError.
    """
    try:
        document = torch.load(
            path if content is None else io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except FileNotFoundError as error:
        raise GeneratorError(
            f"expected a generator at {path}, but there is no such file; check --generator"
        ) from error
    except Exception as error:  # torch.load raises whatever the bytes lead to
        raise GeneratorError(
            f"expected {path} to be a generator that zscgan-convert saved, but it can't be read "
            f"({type(error).__name__}); check --generator"
        ) from error
    if not isinstance(document, dict):
        raise GeneratorError(
            f"expected {path} to be a generator that zscgan-convert saved; check --generator"
        )
    return document
