"""``zscgan-convert``: the command line. Nothing heavy is imported before the options are right."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click
import cloup
from click.core import ParameterSource

from calibrators.options import CalibrationOptions
from calibrators.zscgan.options import ZSCGANOptions
from converter.cli.brief_help import BriefCommand, help_all_option, model_argument
from converter.cli.options import (
    calibration_options,
    engine_options,
    image_options,
    input_options,
    model_options,
    output_options,
    precision_options,
    qat_options,
    sample_options,
)
from converter.cli.process import exit_code, tune_process
from converter.errors import OptionsError
from converter.load.options import ModelOptions
from converter.options import CALIBRATORS, ConvertOptions, ImageOptions
from converter.qat.options import QATOptions
from converter.version import __version__
from engines.cli.options import build_options, builder_options
from engines.cli.spellings import CONTEXT
from zscgan_common.exit_codes import MISSED
from zscgan_common.warning_message import WarningMessage

MOST_USED = ("int8", "output", "val", "preset", "arch", "calib_data", "max_drop", "engine")
EXAMPLES = """\b
Examples:
  zscgan-convert resnet18 --int8    (torchvision's network and weights)
  zscgan-convert resnet18.pth --int8 --val imagenet/val --resize 256 --crop 224
  zscgan-convert mine.pth --int8 --arch mine.py:build --input-shape 3x64x64 --preset unit
  zscgan-convert mine.onnx --int8 --preset imagenet --max-drop 0.5
  zscgan-convert yolov8n.onnx --int8 --preset unit --resize 640x640 --val images/"""
EXIT_CODES = """\b
Exit codes: 0 done, 1 failed, 2 wrong command line, 3 built but --max-drop missed,
130 interrupted (the same command goes on with the training)."""


def has_images(given: dict[str, Any]) -> bool:
    """Whether a flag names real images."""
    return any(given[name] for name in ("val", "calib_data", "qat_data"))


IDLE: dict[str, tuple[str, str, Callable[[dict[str, Any]], Any]]] = {
    "percentile": (
        "--percentile",
        "--calibrator percentile",
        lambda g: g["algorithm"] in ("percentile", "auto"),
    ),
    "resize": ("--resize", "--val, --calib-data or --qat-data", has_images),
    "crop": ("--crop", "--val, --calib-data or --qat-data", has_images),
    "steps": ("--gan-steps", "a generator to train", lambda g: not (g["generator"] or g["calib_data"])),
    "guide_steps": (
        "--guide-steps",
        "samples of a generator",
        lambda g: g["sample_source"] != "procedural" and not g["calib_data"],
    ),
}
"""Option -> its flag, what it needs to have an effect, and whether that is there."""


@cloup.command(
    cls=BriefCommand,
    most_used=MOST_USED,
    examples=EXAMPLES,
    exit_codes=EXIT_CODES,
    context_settings=CONTEXT,
)
@model_argument
@precision_options
@model_options
@input_options
@sample_options
@calibration_options
@image_options
@qat_options
@engine_options
@builder_options
@output_options
@click.version_option(__version__, prog_name="zscgan-convert")
@help_all_option
@click.pass_context
def command(context: click.Context, /, as_json: bool, verbose: int, quiet: bool, **_given: Any) -> None:
    """Turn the vision network MODEL, of PyTorch or ONNX, into an INT8 engine without any data.

    MODEL is a checkpoint (.pth, .pt, .ckpt, .safetensors), a folder of timm or transformers, an ONNX file, a
    TorchScript archive, an exported program (.pt2), or the name of a torchvision classifier or timm:name. It takes one
    image input and may be a classifier, a detector, a segmenter, an embedding or any other network. The output folder
    gets FP32 and INT8 ONNX, the ranges, the generator and a picture of its samples, the engine, report.json and the
    same as a page, report.html.
    """
    options, warnings = request_from(context)
    sys.exit(run(options, warnings, as_json=as_json, verbose=verbose, quiet=quiet))


def request_from(context: click.Context) -> tuple[ConvertOptions, list[WarningMessage]]:
    """What was typed as options, and a warning for each flag that has no effect.

    Raises click.UsageError, whose message names the flag.
    """
    given = context.params
    if not given["int8"]:
        raise click.UsageError(
            f"expected the precision to convert to; type zscgan-convert {given['model']} --int8"
        )
    typed = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    try:
        options = options_from_flags(given["model"], given, typed)
    except (ValueError, OptionsError) as error:
        raise click.UsageError(str(error)) from error
    return options, [
        WarningMessage(
            "option-ignored", f"{flag} has no effect without {need}", f"Leave it out, or add {need}."
        )
        for name, (flag, need, used) in IDLE.items()
        if name in typed and not used(given)
    ]


def options_from_flags(model: str, given: dict[str, Any], typed: set[str]) -> ConvertOptions:
    """The flags as options. Raises ValueError or OptionsError, whose messages name the flag."""

    def some(kind: type[Any]) -> dict[str, Any]:
        names = {entry.name for entry in fields(kind)} - {"model"}
        return {name: value for name, value in given.items() if name in names}

    choose = given["algorithm"] == CALIBRATORS[0]
    if choose:
        given = {**given, "algorithm": CalibrationOptions.algorithm}
    given = {**given, "qat": qat_from_flags(given, typed)}
    return ConvertOptions(
        choose_calibrator=choose,
        model=ModelOptions(model=model, **some(ModelOptions)),
        synthesis=ZSCGANOptions(**some(ZSCGANOptions)),
        calibration=CalibrationOptions(**some(CalibrationOptions)),
        images=ImageOptions(**some(ImageOptions)),
        build=build_options(given),
        asked_algorithm=given["algorithm"] if "algorithm" in typed and not choose else None,
        asked_samples=given["samples"] if "samples" in typed else None,
        **some(ConvertOptions),
    )


def qat_from_flags(given: dict[str, Any], typed: set[str]) -> QATOptions | None:
    """The flags of the fine-tuning; None without --qat. Raises OptionsError for one of them without it."""
    if not given["qat"]:
        if idle := sorted(name for name in typed if name.startswith("qat_")):
            raise OptionsError(
                f"--{idle[0].replace('_', '-')} belongs to the fine-tuning: add --qat, or leave it out"
            )
        return None
    return QATOptions(
        steps=given["qat_steps"],
        data=given["qat_data"],
        backend=given["qat_backend"],
        learning_rate=given["qat_lr"],
        seed=given["seed"],
    )


def run(
    options: ConvertOptions, warnings: list[WarningMessage], *, as_json: bool, verbose: int, quiet: bool
) -> int:
    """Convert and print the result; the exit code."""

    def work() -> int:
        from converter.console import Console
        from converter.pipeline import convert
        from converter.report.summary import missed_gate, summary
        from zscgan_common.tables import UNBOUNDED, terminal_width

        console = Console(quiet=quiet)
        for warning in warnings:
            console.warn(warning)
        report = convert(options, console, shlex.join(["zscgan-convert", *sys.argv[1:]]))
        missed = missed_gate(report, options.max_drop)
        seen = (sys.stderr if as_json else sys.stdout).isatty()
        width = terminal_width() if seen else UNBOUNDED
        click.echo(summary(report, missed, width=width, styled=seen), err=as_json)
        if as_json:
            click.echo(report.to_json(), nl=False)
        return MISSED if missed else 0

    return exit_code(work, verbose)


def main() -> None:
    """The console script."""
    tune_process()
    command()
