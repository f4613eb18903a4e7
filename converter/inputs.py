"""What a conversion starts from: everything is read and checked before any work begins."""

from dataclasses import dataclass
from pathlib import Path

import torch

from calibrators.cache import ranges_from_cache
from calibrators.fingerprint import fingerprint
from calibrators.images import ImageBatches, images_from_path
from calibrators.ranges import Ranges
from converter.console import Reporter
from converter.errors import OptionsError
from converter.load import Teacher, load_model, require_batch_norm
from converter.options import ConvertOptions
from engines.base import choose_engine


@dataclass(frozen=True)
class Inputs:
    """The teacher, where and how to run it, and the images and ranges that the user brought."""

    teacher: Teacher
    fingerprint: str
    device: torch.device
    engine: str
    batch: int
    calib: ImageBatches | None
    val: ImageBatches | None
    cached: Ranges | None


def inputs_from_options(options: ConvertOptions, reporter: Reporter) -> Inputs:
    """Load MODEL and look at every file that is named, so that a mistake costs seconds and leaves nothing.

    Raises ConversionError, CalibrationError, EngineError or OptionsError.
    """
    device = device_from_name(options.device)
    choice = choose_engine(options.engine)
    with reporter.stage("load") as stage:
        teacher = load_model(options.model)
        weights = fingerprint(teacher.module.state_dict())
        batch = options.synthesis.batch_for(*teacher.spec.shape[1:])
        calib = calibration_images(teacher, options, batch)
        val = validation_images(teacher, options, batch)
        cached = cached_ranges(options, weights)
        if calib is None and cached is None:
            require_batch_norm(teacher)
        stage.detail = (
            f"{teacher.name}: {teacher.parameters / 1e6:.2f} M parameters, {teacher.bn_layers} batch norms, "
            f"{teacher.classes} classes, input {'x'.join(map(str, teacher.spec.shape))}"
        )
    for note in teacher.notes:
        reporter.say(f"note: {note}")
    reporter.say(f"engine: {choice.name} ({choice.reason})")
    return Inputs(teacher, weights, device, choice.name, batch, calib, val, cached)


def device_from_name(name: str) -> torch.device:
    """``auto`` is CUDA where PyTorch sees a GPU, else the CPU. Raises OptionsError for CUDA without one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise OptionsError("expected a CUDA GPU for --device cuda, but PyTorch sees none; type --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def calibration_images(teacher: Teacher, options: ConvertOptions, batch: int) -> ImageBatches | None:
    """Real images of ``--calib-data``, at most ``--calib-samples`` of them."""
    if options.images.calib_data is None:
        return None
    return images_from_path(
        options.images.calib_data,
        teacher.spec,
        resize=options.images.resize,
        crop=options.images.crop,
        batch_size=batch,
        limit=options.calibration.samples,
        seed=options.synthesis.seed,
    )


def validation_images(teacher: Teacher, options: ConvertOptions, batch: int) -> ImageBatches | None:
    """Labelled images of ``--val``, all of them."""
    if options.images.val is None:
        return None
    return images_from_path(
        options.images.val,
        teacher.spec,
        resize=options.images.resize,
        crop=options.images.crop,
        batch_size=batch,
        limit=None,
        seed=0,
        require_labels=True,
        classes=teacher.classes,
    )


def cached_ranges(options: ConvertOptions, weights: str) -> Ranges | None:
    """Ranges of ``--calibration-cache``, where the file exists and isn't to be written anew."""
    path: Path | None = options.calibration_cache
    if path is None or options.recalibrate or not path.exists():
        return None
    return ranges_from_cache(path, fingerprint=weights)
