"""The story of ``zscgan-samples``: load a network, make samples for it, write them for other tools."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from calibrators.data.batches import Batches, first_inputs
from calibrators.data.export import is_labelled, write_folder, write_images, write_inputs
from calibrators.fingerprint import fingerprint
from calibrators.options import CalibrationOptions
from calibrators.zscgan.quality import SampleQuality, sample_quality
from calibrators.zscgan.sample_sheet import save_picture, save_sheet
from calibrators.zscgan.sampling import TrainedGenerator, save_generator
from converter.console import Console
from converter.errors import OptionsError
from converter.graph.capture import INPUT
from converter.job import device_from_name, load_reused_generator, most_guided, network_line, tell_of_network
from converter.load.model import Teacher, load_model, require_batch_norm
from converter.load.task import task_of
from converter.options import SampleOptions
from converter.samples import (
    GeneratorSamples,
    SampleKind,
    kind_of_samples,
    procedural_among,
    samples_of_kind,
)
from converter.samples_output import SamplesOutput
from converter.stages.synthesis import (
    SHOWN,
    STATISTICS,
    LabelsOf,
    generated_samples,
    generator_from_teacher,
    has_labels,
    warn_of_poor_samples,
)
from converter.trust.task.base import Task
from converter.version import __version__
from zscgan_common.files import write_atomic
from zscgan_common.warning_message import WarningMessage

GENERATOR = "generator.pt"


@dataclass(frozen=True)
class SamplesReport:
    """``samples.json``: what the samples were made for, how, and how good they are.

    ``bn_kl`` is nats, None without batch norms; ``label_accuracy`` percent, None without labels.
    """

    version: str
    model: str
    sha256: str
    fingerprint: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str
    task: str
    samples: int
    source: SampleKind
    seed: int
    steps: int
    guide_steps: int
    bn_kl: float | None
    label_accuracy: float | None


@dataclass(frozen=True)
class _Network:
    """The network that samples are for, and the generator that was given for it."""

    teacher: Teacher
    task: Task
    fingerprint: str
    generator: TrainedGenerator | None


def make_samples(options: SampleOptions, console: Console) -> list[Path]:
    """The files and folders that were written; the samples themselves are the first.

    Raises ConversionError, CalibrationError or OptionsError for what the user can fix; then nothing is left but the
    training's checkpoint, from which the same command goes on.
    """
    network = _loaded(options, console)
    kind = _kind(network, options)
    if kind != "procedural" and network.generator is None:
        require_batch_norm(network.teacher)
    if options.by_class and (kind != "generator" or not has_labels(network.task)):
        some = "half of these" if kind == "both" and has_labels(network.task) else "these"
        raise OptionsError(
            f"--class-folders require samples with labels, but {some} have none; leave --class-folders out"
        )
    synthesis = options.synthesis.for_labels(network.task.classes, *network.teacher.spec.shape[1:])
    options = replace(options, synthesis=synthesis)
    place = SamplesOutput(options.output, archive=options.archive, overwrite=options.overwrite)
    with place:
        generated = None if kind == "procedural" else _generated(network, kind, options, place, console)
        if generated is not None:
            _warn_of_poor(network, kind, generated, options, console)
        batches = _batches(network.teacher, kind, generated, options)
        labels = _written(network, batches, options, place, console)
        if not options.normalised:
            _say_labels(labels, network.task, console)
        if options.report:
            _add_report(network, kind, generated, batches, options, place, console)
        written = place.files()
    if not options.archive:
        return [options.output]
    return [
        options.output,
        *(options.output.with_name(name) for name in written if name != options.output.name),
    ]


def _loaded(options: SampleOptions, console: Console) -> _Network:
    with console.stage("load") as stage:
        teacher = load_model(options.model)
        weights = fingerprint(teacher.module.state_dict())
        task, found = task_of(teacher, options.task, options.decode)  # type: ignore[arg-type]
        device = device_from_name(options.device)
        generator = load_reused_generator(options.generator, teacher, weights, device)
        stage.detail = network_line(teacher, task)
    tell_of_network(teacher, found, console)
    return _Network(teacher, task, weights, generator)


def _kind(network: _Network, options: SampleOptions) -> SampleKind:
    """What ``--samples`` stands for: of ``auto`` what a conversion takes, but where labels are written all have one."""
    asked, reused = options.sample_source, network.generator is not None
    kind = kind_of_samples(asked, bn_layers=network.teacher.bn_layers, reused=reused)
    labelled = has_labels(network.task) and not options.normalised
    return "generator" if asked == "auto" and kind == "both" and labelled else kind


def _generated(
    network: _Network, kind: SampleKind, options: SampleOptions, place: SamplesOutput, console: Console
) -> GeneratorSamples:
    """Samples of the generator that was given, or of one that is trained here."""
    trained = _trained(network, options, place, console)
    count = _of_generator(kind, options.count)
    if kind == "both" and options.count == CalibrationOptions.samples:  # then they are those of a conversion
        count = _of_generator(kind, most_guided(network.teacher.spec.shape, options.count))
    return generated_samples(network.teacher, network.task, trained, options.synthesis, count)


def _of_generator(kind: SampleKind, count: int) -> int:
    """How many of ``count`` samples a generator makes."""
    return count - procedural_among(kind, count)


def _trained(
    network: _Network, options: SampleOptions, place: SamplesOutput, console: Console
) -> TrainedGenerator:
    """The generator that was given, or one that is trained here."""
    device = device_from_name(options.device)
    network.teacher.module.to(device)  # it looks at the samples of a reused generator, too
    if network.generator is not None:
        return network.generator
    with console.stage("synthesis") as stage:
        trained = generator_from_teacher(
            network.teacher,
            network.task,
            network.fingerprint,
            options.synthesis,
            checkpoint=place.checkpoint,
            device=device,
            console=console,
        )
        stage.detail = f"{len(trained.history)} steps"
    return trained


def _warn_of_poor(
    network: _Network, kind: SampleKind, generated: GeneratorSamples, options: SampleOptions, console: Console
) -> None:
    """Say where the generator's samples are not what the network was trained with."""
    quality = _quality(network, generated, options, min(STATISTICS, _of_generator(kind, options.count)))
    warn_of_poor_samples(
        quality, network.task, network.teacher.spec, console, guided=generated.guide_steps > 0
    )


def _quality(
    network: _Network, generated: GeneratorSamples | None, options: SampleOptions, count: int
) -> SampleQuality:
    """How good ``count`` samples of the generator are, or procedural images where there is none."""
    kind: SampleKind = "procedural" if generated is None else "generator"
    batches = _batches(network.teacher, kind, generated, replace(options, count=count))
    return sample_quality(LabelsOf(network.teacher.module, network.task), batches)


def _batches(
    teacher: Teacher, kind: SampleKind, generated: GeneratorSamples | None, options: SampleOptions
) -> Batches:
    source = samples_of_kind(kind, generated, teacher.spec, device_from_name(options.device))
    _, height, width = teacher.spec.shape
    return source.batches(options.count, options.synthesis.batch_for(height, width), options.synthesis.seed)


def _written(
    network: _Network, batches: Batches, options: SampleOptions, place: SamplesOutput, console: Console
) -> list[int]:
    """Write the samples; their labels, -1 where these aren't known."""
    teacher, name, spec = network.teacher, options.output.name, network.teacher.spec
    with console.stage("write") as stage, console.progress("write", options.count) as advance:
        if options.normalised:
            called = options.input_name or _input_name(teacher)
            labels = write_inputs(batches, spec, called, place.path(name), advance)
            stage.detail = f"{len(labels)} inputs, float32, as {called!r}"
        elif options.archive:
            labels = write_images(batches, spec, place.path(name), advance)
            stage.detail = f"{len(labels)} images"
        else:
            labels = write_folder(
                batches,
                spec,
                place.draft,
                advance,
                names=teacher.class_names,
                by_class=options.by_class,
            )
            stage.detail = f"{len(labels)} PNG files"
    return labels


def _input_name(teacher: Teacher) -> str:
    """The input's name in ONNX."""
    return INPUT if teacher.onnx is None else str(teacher.onnx.graph.input[0].name)


def _say_labels(labels: list[int], task: Task, console: Console) -> None:
    """Say where samples have no labels, or none of some classes."""
    if not has_labels(task):
        return
    if not is_labelled(labels):
        console.info("note: procedural images have no labels")
    elif len(set(labels)) < task.classes:
        console.warn(
            WarningMessage(
                "classes-without-samples",
                f"{len(labels)} samples are of {len(set(labels))} of the {task.classes} classes; give a larger -n",
                "Ranges need no sample of each class; a tool that takes labels may.",
            )
        )


def _add_report(
    network: _Network,
    kind: SampleKind,
    generated: GeneratorSamples | None,
    batches: Batches,
    options: SampleOptions,
    place: SamplesOutput,
    console: Console,
) -> None:
    """Write the picture, the generator and ``samples.json``."""
    teacher, task = network.teacher, network.task
    with console.stage("report") as stage:
        quality = _quality(network, generated, options, _of_generator(kind, options.count) or options.count)
        picture = place.path(place.beside("samples.png"))
        trained = None if generated is None else generated.trained
        if kind == "generator" and generated is not None:
            names = teacher.class_names if len(teacher.class_names or ()) == task.classes else None
            save_picture(
                generated.trained.generator,
                picture,
                seed=options.synthesis.seed,
                class_names=names,
                guide=generated.guide,
            )
        else:
            save_sheet(first_inputs(batches, SHOWN), teacher.spec, picture)
        if trained is not None:
            save_generator(trained, place.path(place.beside(GENERATOR)))
        labelled = generated is not None and has_labels(task)
        report = SamplesReport(
            version=__version__,
            model=teacher.name,
            sha256=teacher.sha256,
            fingerprint=network.fingerprint,
            input_shape=teacher.spec.shape,
            mean=teacher.spec.mean,
            std=teacher.spec.std,
            channel_order=teacher.spec.channel_order,
            task=task.name,
            samples=options.count,
            source=kind,
            seed=options.synthesis.seed,
            steps=0 if trained is None else len(trained.history),
            guide_steps=0 if generated is None else generated.guide_steps,
            bn_kl=quality.bn_kl if teacher.bn_layers else None,
            label_accuracy=quality.label_accuracy if labelled else None,
        )
        write_atomic(place.path(place.beside("samples.json")), json.dumps(asdict(report), indent=2) + "\n")
        parts = [f"batch-norm KL {quality.bn_kl:.4f}"] if teacher.bn_layers else []
        parts += [f"{quality.label_accuracy:.1f} % of samples have their label"] if labelled else []
        stage.detail = ", ".join(parts)
