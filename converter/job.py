"""A conversion that is about to begin: everything is read and checked before any work."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import torch

from calibrators.data.batches import Batches
from calibrators.data.images import ImageBatches, images_from_files, images_from_path, shared_images
from calibrators.data.truths import Truths, has_truths, truths_from_path
from calibrators.distributed import SINGLE, Ranks
from calibrators.errors import CacheError
from calibrators.fingerprint import fingerprint, fingerprint_for_input
from calibrators.ranges.cache_file import ranges_from_cache
from calibrators.ranges.ranges import Ranges, holds_ranges
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import TrainedGenerator, load_generator
from converter.console import Console
from converter.errors import OptionsError, OutputError
from converter.load.model import Teacher, load_model, require_batch_norm
from converter.load.task import task_of
from converter.options import ConvertOptions
from converter.qat.backends import backend_from_name
from converter.qat.data import require_enough
from converter.samples import (
    GeneratorSamples,
    SampleKind,
    SampleSource,
    are_guided,
    kind_of_samples,
    procedural_among,
    samples_of_kind,
)
from converter.trust.prediction import inputs_for
from converter.trust.task.base import Task
from converter.trust.task.labels import Labels
from converter.workspace import Workspace
from engines.choose import EngineChoice, choose_engine
from engines.memory import open_device
from engines.options import BuildOptions, OptionError, refuse_unused, unused_flags
from engines.tensorrt.library import require_calibrators
from engines.tensorrt.rtx import check_options
from zscgan_common.warning_message import WarningMessage

ONE_BY_ONE = WarningMessage(
    "one-by-one",
    "the file fixes its batch to 1, which can't be made free without other numbers: the network converts sample by "
    "sample, and its engine takes one image at a time",
    "Ranges and accuracy are those of each image alone. For an engine that takes several, export the network with a "
    "dynamic batch.",
)
KEPT = "training progress saved to {}; run the same command to resume"


class SampleUse(IntEnum):
    """What samples are for, added to the seed: what chose a calibrator or layers must not judge as well."""

    CALIBRATING = 0
    CHOOSING = 1
    JUDGING = 2


@dataclass(frozen=True)
class Job:
    """What every stage may ask for: the options, the network, the images, ranges and generator that the user brought.

    ``fingerprint`` is of the weights, ``ranges_for`` of weights and input: ranges hold for both together. ``engine``
    is the one to build, ``batch`` the inputs of a step. ``ranks`` are the processes of torchrun; the ``workspace`` is
    open on the first of them while stages run.
    """

    options: ConvertOptions
    console: Console
    ranks: Ranks
    workspace: Workspace
    teacher: Teacher
    task: Task
    fingerprint: str
    ranges_for: str
    device: torch.device
    engine: str
    batch: int
    calib: ImageBatches | None = None
    val: ImageBatches | None = None
    truths: Truths | None = None
    qat: ImageBatches | None = None
    cached: Ranges | None = None
    generator: TrainedGenerator | None = None

    @property
    def seed(self) -> int:
        """``--seed``."""
        return self.options.synthesis.seed

    @property
    def sample_kind(self) -> SampleKind:
        """What calibrates where samples do: a generator's, procedural images, or half of each."""
        return kind_of_samples(
            self.options.sample_source,
            bn_layers=self.teacher.bn_layers,
            reused=self.options.generator is not None,
        )

    @property
    def procedural(self) -> bool:
        """Whether samples are procedural images alone, so that no generator is trained."""
        return self.sample_kind == "procedural"

    @property
    def needs_samples(self) -> bool:
        """Whether samples are used: real images or cached ranges take their place, unless a generator was named.

        Fine-tuning takes samples too, unless it has images of its own.
        """
        calibrates = self.calib is None and self.cached is None
        tunes = self.options.qat is not None and self.options.qat.data is None
        return self.options.generator is not None or calibrates or tunes

    @property
    def true_answers(self) -> Sequence[Any] | None:
        """What is on each image of ``--val``, as the network sees it; None without labels for the task."""
        if self.val is None or self.task.metric is None:
            return None
        if self.truths is not None:
            how = self.val.resize, self.val.crop
            return [self.truths.on_input(path, *how) for path in self.val.paths]
        labelled = self.val.labelled and self.task.name in ("classes", "labels")
        return [self.val.labels[index] for index in self.val.order] if labelled else None

    def checkpoint(self, path: Path) -> Path | None:
        """``path``, where the state of a training is saved: by the first rank alone."""
        return path if self.ranks.first else None

    def samples(
        self, source: SampleSource, use: SampleUse = SampleUse.CALIBRATING, count: int | None = None
    ) -> Batches:
        """The samples for one use, as many as calibrate unless a ``count`` is given.

        Those for different uses have none in common.
        """
        count = self.calibrating(source) if count is None else count
        return source.batches(count, self.batch, self.seed + use)

    def calibrating(self, source: SampleSource) -> int:
        """How many samples calibrate: as many as were asked for, by default fewer where they are guided."""
        asked, usual = self.options.asked_samples, self.options.calibration.samples
        return calibrating_of(source, self.teacher.spec.shape, usual) if asked is None else asked

    def procedural_among(self, count: int) -> int:
        """How many of ``count`` samples that calibrate are procedural images."""
        return procedural_among(self.sample_kind, count)

    def choosing_samples(self, source: SampleSource, count: int) -> Batches:
        """``count`` samples to choose calibrators and layers on: fresh ones.

        Where samples are guided, they are the first that calibrate: to guide others would take as long again.
        """
        use = SampleUse.CALIBRATING if are_guided(source) else SampleUse.CHOOSING
        return self.samples(source, use, count)

    def calibration_data(self, source: SampleSource | None) -> Batches:
        """The real images that the user brought, else samples.

        Those of a generator with labels are mixed with procedural images for this alone, as these have none.
        """
        if self.calib is not None:
            return self.calib
        assert source is not None
        if self.sample_kind != "both" or not isinstance(source, GeneratorSamples):
            return self.samples(source)
        both = samples_of_kind("both", source, self.teacher.spec, self.device)
        # Half of a batch is the generator's: whole batches of the guide, that no two ranks guide the same.
        return both.batches(self.calibrating(source), 2 * self.batch, self.seed + SampleUse.CALIBRATING)


def calibrating_of(samples: SampleSource, shape: tuple[int, int, int], count: int) -> int:
    """``count``, at most as many as two networks are compared on where the samples are guided: 256 large ones.

    They give the ranges of 512 (docs/method.md).
    """
    return most_guided(shape, count) if are_guided(samples) else count


def most_guided(shape: tuple[int, int, int], count: int) -> int:
    """``count``, at most as many as calibrate by default where samples are guided."""
    return min(count, inputs_for(ZSCGANOptions().batch_for(*shape[1:])))


def job_from_options(options: ConvertOptions, console: Console, ranks: Ranks = SINGLE) -> Job:
    """Load MODEL and look at every file that is named, so that a mistake costs seconds and leaves nothing.

    Raises ConversionError, CalibrationError, EngineError or OptionsError.
    """
    device = device_from_name(options.device)
    require_places(options)
    choice = resolve_engine(options, console)
    with console.stage("load") as stage:
        teacher = load_model(options.model)
        options = options_for(teacher, options)
        weights = fingerprint(teacher.module.state_dict())
        ranges_for = fingerprint_for_input(weights, teacher.spec)
        task, found = task_of(teacher, options.task, options.decode)  # type: ignore[arg-type]
        batch = options.synthesis.batch_for(*teacher.spec.shape[1:])
        synthesis = options.synthesis.for_labels(task.classes, *teacher.spec.shape[1:], ranks.world)
        val, truths = val_images(task, teacher, options)
        if isinstance(task, Labels) and val is not None and val.labelled:
            task = replace(task, one_known=True)  # class folders name one of several
        output = options.output or Path(f"{teacher.name}_int8")
        job = Job(
            options=replace(options, synthesis=synthesis),
            console=console,
            ranks=ranks,
            workspace=Workspace(output, told_of_kept(console)),
            teacher=teacher,
            task=task,
            fingerprint=weights,
            ranges_for=ranges_for,
            device=device,
            engine=choice.name,
            batch=batch,
            calib=real_images(options.images.calib_data, teacher, options, limit=options.calibration.samples),
            val=val,
            truths=truths,
            qat=qat_images(teacher, options),
            cached=cached_ranges(options, ranges_for),
            generator=load_reused_generator(options.generator, teacher, weights, device),
        )
        if options.sample_source in ("zscgan", "both") and job.needs_samples:
            require_batch_norm(teacher)
        stage.detail = network_line(teacher, task)
    tell_of_network(teacher, found, console)
    console.info(f"engine: {choice.name} ({choice.reason})")
    if teacher.one_by_one:
        console.warn(ONE_BY_ONE)
    warn_of_shared(job)
    return job


def tell_of_network(teacher: Teacher, found: str, console: Console) -> None:
    """Print what the user should see of a network that was loaded, and the line ``found``, which names its task."""
    for note in teacher.notes:
        console.info(f"note: {note}")
    for warning in teacher.warnings:
        console.warn(warning)
    console.info(found)


def network_line(teacher: Teacher, task: Task) -> str:
    """The network in one line."""
    return (
        f"{teacher.name}: {teacher.parameters / 1e6:.2f} M parameters, {teacher.bn_layers} batch norms, "
        f"{task.describe()}, input {'x'.join(map(str, teacher.spec.shape))}"
    )


def options_for(teacher: Teacher, options: ConvertOptions) -> ConvertOptions:
    """``options`` with an engine for one image, where ``teacher`` takes no more; OptionsError for other batches."""
    if not teacher.one_by_one:
        return options
    built = options.build
    for name in ("min", "opt", "max"):
        batch, usual, flag = (
            getattr(built, f"{name}_batch"),
            getattr(BuildOptions, f"{name}_batch"),
            f"--{name}-shapes",
        )
        if batch not in (1, usual):
            raise OptionsError(
                f"expected {flag} 1, as {teacher.name} fixes its batch to 1, got {batch}; leave {flag} out, or export "
                "the network with a dynamic batch"
            )
    if options.implicit:
        raise OptionsError(
            f"--implicit calibrates with batches of several images, but {teacher.name} fixes its batch to 1; leave "
            "--implicit out, or export the network with a dynamic batch"
        )
    return replace(options, build=replace(built, min_batch=1, opt_batch=1, max_batch=1))


def told_of_kept(console: Console) -> Callable[[Path], None]:
    """Says where a run that ends badly leaves its training."""
    return lambda kept: console.warn(
        WarningMessage("training-kept", KEPT.format(kept), "Run the same command again.")
    )


def resolve_engine(options: ConvertOptions, console: Console) -> EngineChoice:
    """The engine to build. Raises OptionsError or EngineUnavailableError where it can't do what was asked for."""
    choice = choose_engine(options.engine)
    try:
        refuse_unused(choice.name, options.build)
        if choice.name == "tensorrt-rtx":
            check_options(options.build)
    except OptionError as error:
        raise OptionsError(f"{error} (engine: {choice.reason})") from error
    for flag in unused_flags(choice.name, options.build):
        console.warn(
            WarningMessage(
                "option-ignored",
                f"{flag} has no effect on {choice.name}",
                "The option was ignored. Leave it out, or choose another engine with --engine.",
            )
        )
    if options.implicit:
        if choice.name != "tensorrt":
            raise OptionsError(
                f"--implicit is TensorRT 10's own calibration, but the engine is {choice.name} ({choice.reason}); "
                "leave --implicit out: model.int8.onnx carries the same ranges as Q/DQ pairs"
            )
        require_calibrators()
    if choice.name == "tensorrt":
        open_device(options.buffers).close()
    return choice


def require_places(options: ConvertOptions) -> None:
    """Raise OutputError where a file can't be written that is due after the training."""
    cache = options.calibration_cache
    if cache is not None and cache.exists() and not options.recalibrate:
        cache = None  # it is read
    for flag, path in (("--calibration-cache", cache), ("--timing-cache", options.build.timing_cache)):
        if path is None:
            continue
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            problem = "it is a folder" if path.is_dir() else f"{folder} is no folder that can be written"
            raise OutputError(f"expected {flag} {path} to be a file to write, but {problem}; name another")


def load_reused_generator(
    path: Path | None, teacher: Teacher, weights: str, device: torch.device
) -> TrainedGenerator | None:
    """The generator of ``--generator``, if any. Raises GeneratorError for one of another model or input."""
    if path is None:
        return None
    return load_generator(path, fingerprint=weights, spec=teacher.spec, device=device)


def warn_of_shared(job: Job) -> None:
    """Say so where accuracy is measured on images that the conversion has seen."""
    for flag, images, verb in (("--calib-data", job.calib, "calibrated"), ("--qat-data", job.qat, "trained")):
        if images is not None and job.val is not None and (shared := shared_images(images, job.val)):
            job.console.warn(
                WarningMessage(
                    "val-seen",
                    f"{shared} of the {images.num_samples} images of {flag} are in --val too, so the accuracy is "
                    f"measured on images that {verb}; take other images for one of the two",
                    "The accuracy on this page is too good by an unknown amount.",
                )
            )


def device_from_name(name: str) -> torch.device:
    """``auto`` is CUDA where PyTorch sees a GPU, else the CPU. Raises OptionsError for CUDA without one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise OptionsError("expected a CUDA GPU for --device cuda, but PyTorch sees none; type --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def val_images(
    task: Task, teacher: Teacher, options: ConvertOptions
) -> tuple[ImageBatches | None, Truths | None]:
    """The images of ``--val``, and what is on them, where they have boxes or masks for such a task."""
    path = options.images.val
    if path is None or task.name not in ("boxes", "mask"):
        classes = task.classes if task.name in ("classes", "labels") else None
        return real_images(path, teacher, options, classes=classes), None
    kind: Literal["boxes", "mask"] = "boxes" if task.name == "boxes" else "mask"
    if not has_truths(path):
        return real_images(path, teacher, options), None
    truths = truths_from_path(path, kind)
    return real_images(list(truths.files), teacher, options), truths


def real_images(
    path: Path | list[Path] | None, teacher: Teacher, options: ConvertOptions, **how: Any
) -> ImageBatches | None:
    """The images at ``path``, if there is one, resized and cropped as the options say."""
    if path is None:
        return None
    read = images_from_files if isinstance(path, list) else images_from_path
    images = read(
        path,  # type: ignore[arg-type]
        teacher.spec,
        resize=options.images.resize,
        crop=options.images.crop,
        batch_size=options.synthesis.batch_for(*teacher.spec.shape[1:]),
        seed=options.synthesis.seed,
        **how,
    )
    images.require_sizes()
    return images


def qat_images(teacher: Teacher, options: ConvertOptions) -> ImageBatches | None:
    """The images of --qat-data, if any.

    Raises QATError where the package of --qat-backend is missing, DataError for images that are broken or too few.
    """
    if options.qat is None:
        return None
    backend_from_name(options.qat.backend)
    images = real_images(options.qat.data, teacher, options)
    if images is not None:
        require_enough(images)
    return images


def cached_ranges(options: ConvertOptions, ranges_for: str) -> Ranges | None:
    """Ranges of ``--calibration-cache``, where the file exists and isn't to be written anew.

    Raises CacheError for ranges that were made for something else, and where the cache would overwrite a file
    that isn't ours.
    """
    path = options.calibration_cache
    if path is None:
        return None
    if options.recalibrate or not path.exists():
        beside = path.with_suffix(".json")
        if beside.exists() and not holds_ranges(beside):
            raise CacheError(
                f"{beside} would be overwritten and isn't ours; give another --calibration-cache"
            )
        return None
    if options.images.calib_data is not None:
        raise OptionsError(
            f"{path} exists, so --calib-data would not be used; add --recalibrate, or leave one of the two out"
        )
    return ranges_from_cache(path, fingerprint=ranges_for, algorithm=options.asked_algorithm)
