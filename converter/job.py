"""What a conversion starts from: everything is read and checked before any work begins."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from calibrators.data.images import ImageBatches, images_from_path, shared_images
from calibrators.errors import CacheError
from calibrators.fingerprint import fingerprint, fingerprint_for_input
from calibrators.ranges.cache_file import ranges_from_cache
from calibrators.ranges.ranges import Ranges, holds_ranges
from calibrators.zscgan.sampling import TrainedGenerator, load_generator
from converter.console import Reporter
from converter.errors import OptionsError, OutputError
from converter.load.model import Teacher, load_model, require_batch_norm
from converter.options import ConvertOptions
from converter.qat.data import require_enough
from converter.qat.quantizers import backend_from_name
from engines.base import EngineChoice, choose_engine
from engines.memory import open_device
from engines.options import OptionError, refuse_unused, unused_flags
from engines.tensorrt.library import require_calibrators
from engines.tensorrt.rtx import check_options


@dataclass(frozen=True)
class Inputs:
    """The teacher, where and how to run it, and the images, ranges and generator that the user brought.

    ``fingerprint`` is of the weights, ``ranges_for`` of weights and input: ranges hold for both together.
    """

    teacher: Teacher
    fingerprint: str
    ranges_for: str
    device: torch.device
    engine: str
    batch: int
    calib: ImageBatches | None
    val: ImageBatches | None
    qat: ImageBatches | None
    cached: Ranges | None
    generator: TrainedGenerator | None = None


def inputs_from_options(options: ConvertOptions, reporter: Reporter) -> Inputs:
    """Load MODEL and look at every file that is named, so that a mistake costs seconds and leaves nothing.

    Raises ConversionError, CalibrationError, EngineError or OptionsError.
    """
    device = device_from_name(options.device)
    require_places(options)
    choice = chosen_engine(options, reporter)
    with reporter.stage("load") as stage:
        teacher = load_model(options.model)
        weights = fingerprint(teacher.module.state_dict())
        batch = options.synthesis.batch_for(*teacher.spec.shape[1:])
        calib = real_images(options.images.calib_data, teacher, options, limit=options.calibration.samples)
        val = real_images(options.images.val, teacher, options, require_labels=True, classes=teacher.classes)
        qat = qat_images(teacher, options)
        ranges_for = fingerprint_for_input(weights, teacher.spec)
        cached = cached_ranges(options, ranges_for)
        if (calib is None and cached is None) or (options.qat is not None and qat is None):
            require_batch_norm(teacher)
        generator = reused_generator(options, teacher, weights, device)
        stage.detail = (
            f"{teacher.name}: {teacher.parameters / 1e6:.2f} M parameters, {teacher.bn_layers} batch norms, "
            f"{teacher.classes} classes, input {'x'.join(map(str, teacher.spec.shape))}"
        )
    for note in teacher.notes:
        reporter.say(f"note: {note}")
    reporter.say(f"engine: {choice.name} ({choice.reason})")
    warn_of_shared(calib, val, qat, reporter)
    return Inputs(
        teacher, weights, ranges_for, device, choice.name, batch, calib, val, qat, cached, generator
    )


def chosen_engine(options: ConvertOptions, reporter: Reporter) -> EngineChoice:
    """The engine to build. Raises OptionsError or EngineUnavailableError where it can't do what was asked for."""
    choice = choose_engine(options.engine)
    try:
        refuse_unused(choice.name, options.build)
        if choice.name == "tensorrt-rtx":
            check_options(options.build)
    except OptionError as error:
        raise OptionsError(f"{error} (engine: {choice.reason})") from error
    for flag in unused_flags(choice.name, options.build):
        reporter.warn(f"{flag} has no effect on {choice.name}")
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


def reused_generator(
    options: ConvertOptions, teacher: Teacher, weights: str, device: torch.device
) -> TrainedGenerator | None:
    """The generator of ``--generator``, if any. Raises GeneratorError for one of another model or input."""
    if options.generator is None:
        return None
    return load_generator(options.generator, fingerprint=weights, spec=teacher.spec, device=device)


def warn_of_shared(
    calib: ImageBatches | None, val: ImageBatches | None, qat: ImageBatches | None, reporter: Reporter
) -> None:
    """Say so where accuracy is measured on images that the conversion has seen."""
    for flag, images, verb in (("--calib-data", calib, "calibrated"), ("--qat-data", qat, "trained")):
        if images is not None and val is not None and (shared := shared_images(images, val)):
            reporter.warn(
                f"{shared} of the {images.num_samples} images of {flag} are in --val too, so the accuracy is measured "
                f"on images that {verb}; take other images for one of the two"
            )


def device_from_name(name: str) -> torch.device:
    """``auto`` is CUDA where PyTorch sees a GPU, else the CPU. Raises OptionsError for CUDA without one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise OptionsError("expected a CUDA GPU for --device cuda, but PyTorch sees none; type --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def real_images(
    path: Path | None, teacher: Teacher, options: ConvertOptions, **how: Any
) -> ImageBatches | None:
    """The images at ``path``, if there is one, resized and cropped as the options say."""
    if path is None:
        return None
    images = images_from_path(
        path,
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
