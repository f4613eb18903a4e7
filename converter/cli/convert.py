"""``zscgan-convert``: the command line. Nothing heavy is imported before the options are right."""

import logging
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click.core import ParameterSource

from calibrators.data.input_spec import PRESETS
from calibrators.errors import CalibrationError
from calibrators.options import CalibrationOptions
from calibrators.zscgan.options import ZSCGANOptions
from converter import __version__
from converter.errors import ConversionError, OptionsError
from converter.load.options import ModelOptions
from converter.options import CALIBRATORS, DEVICES, ConvertOptions, ImageOptions
from converter.qat.options import BACKENDS, QATOptions
from engines.cli.build import build_options, builder_options, profile_options
from engines.errors import EngineError
from engines.options import BUFFERS, ENGINES
from zscgan_common.exit_codes import FAILED, INTERRUPTED, MISSED, USAGE
from zscgan_common.warning_message import WarningMessage

FilePath = click.Path(path_type=Path)


class ShapeType(click.ParamType):  # type: ignore[type-arg]
    """``3x224x224`` as (3, 224, 224)."""

    name = "CxHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = value.lower().split("x")
        if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(
                f"expected CxHxW of whole numbers from 1 up, for example 3x224x224, got {value!r}", param, ctx
            )
        return tuple(map(int, parts))


class NumbersType(click.ParamType):  # type: ignore[type-arg]
    """``0.485,0.456,0.406`` as a tuple of floats; one number stands for all channels."""

    name = "X[,X...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(
                f"expected numbers with commas between, for example 0.485,0.456,0.406, got {value!r}",
                param,
                ctx,
            )


def option_group(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several ``click.option`` in the order in which the help shows them."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


model_options = option_group(
    click.option("--arch", metavar="NAME", help="torchvision name, package.module:callable or file.py:callable; "
                 "absent: the torchvision architecture that fits the weights."),
    click.option("--trust-pickle", is_flag=True, help="Read a whole pickled module, which runs code from the file."),
    click.option("--input-shape", type=ShapeType(), help="Shape of one input, for example 3x224x224."),
    click.option("--mean", type=NumbersType(), help="Mean of each channel, for pixels in [0, 1]."),
    click.option("--std", type=NumbersType(), help="Standard deviation of each channel."),
    click.option("--preset", type=click.Choice(list(PRESETS)), help="Usual mean, std and shape."),
)  # fmt: skip

sample_options = option_group(
    click.option("--gan-steps", "steps", type=int, default=ZSCGANOptions.steps, show_default=True,
                 help="Training steps of all generators, at most."),
    click.option("--gan-batch", "batch", type=int, default=ZSCGANOptions.batch, show_default="64, large inputs 16",
                 help="Samples a step."),
    click.option("--generator", type=FilePath, metavar="FILE", help="Reuse generator.pt of an earlier run."),
    click.option("--seed", type=int, default=ZSCGANOptions.seed, show_default=True,
                 help="Same seed, same result; on a GPU for one generator.pt."),
    click.option("--device", type=click.Choice(DEVICES), default=ConvertOptions.device, show_default=True,
                 help="Where to train and calibrate."),
)  # fmt: skip

calibration_options = option_group(
    click.option("--calibrator", "algorithm", type=click.Choice(CALIBRATORS), default=CALIBRATORS[0],
                 show_default=True, help="How the range of each activation is chosen; auto compares all on samples "
                 "and takes the one whose INT8 network is nearest to FP32."),
    click.option("--percentile", type=float, default=CalibrationOptions.percentile, show_default=True,
                 help="For --calibrator percentile."),
    click.option("--calib-samples", "samples", type=int, default=CalibrationOptions.samples, show_default=True,
                 help="Inputs to calibrate with."),
    click.option("--calib-data", type=FilePath, metavar="DIR|FILE.npz",
                 help="Calibrate with real images and train no generator."),
    click.option("--calibration-cache", type=FilePath, metavar="FILE",
                 help="Ranges: read where the file exists (refused for another model), else written."),
    click.option("--recalibrate", is_flag=True, help="Write --calibration-cache anew."),
    click.option("--trt-version", metavar="10.X.Y",
                 help="The TensorRT that will read the cache, where that is another than the one installed here."),
)  # fmt: skip

qat_options = option_group(
    click.option("--qat", is_flag=True, help="Fine-tune the weights for INT8 with fake quantizers in the network, on "
                 "samples, with the FP32 network as the teacher."),
    click.option("--qat-steps", type=int, default=QATOptions.steps, show_default=True,
                 help="Steps of the fine-tuning, at most."),
    click.option("--qat-lr", type=float, default=QATOptions.learning_rate, show_default=True,
                 help="Learning rate, in units of each weight's root mean square."),
    click.option("--qat-data", type=FilePath, metavar="DIR|FILE.npz",
                 help="Fine-tune on real images; they need no labels."),
    click.option("--qat-backend", type=click.Choice(BACKENDS), default=BACKENDS[0], show_default=True,
                 help="Whose fake quantizers; pytorch-quantization needs CUDA."),
)  # fmt: skip

engine_options = option_group(
    click.option("--engine", type=click.Choice(ENGINES), default=ConvertOptions.engine, show_default=True,
                 help="Engine to build; auto takes the best that works here and says which."),
    click.option("--implicit", is_flag=True,
                 help="TensorRT 10's own calibrator on the samples, in place of Q/DQ pairs."),
    profile_options,
    builder_options,
    click.option("--buffers", type=click.Choice(BUFFERS), default=ConvertOptions.buffers, show_default=True,
                 help="Who provides GPU memory to run the engine."),
)  # fmt: skip

image_options = option_group(
    click.option("--val", type=FilePath, metavar="DIR|FILE.npz",
                 help="Measure accuracy: class folders, a folder with labels.csv, or an .npz."),
    click.option("--resize", type=int, metavar="PIXELS", help="Resize images to this shorter side."),
    click.option("--crop", type=int, metavar="PIXELS", help="Then crop the centre to this side."),
    click.option("--max-drop", type=float, metavar="PERCENT",
                 help="Keep the fewest layers out of INT8 for which no more top-1 is lost, as measured on --val or "
                 "else predicted; exit with 3 where that can't be had."),
)  # fmt: skip


EPILOG = """\b
Examples:
  zscgan-convert resnet18.pth --int8
  zscgan-convert resnet18.pth --int8 --val imagenet/val --resize 256 --crop 224
  zscgan-convert resnet18.pth --int8 --max-drop 0.5
  zscgan-convert mine.pth --int8 --arch mine.py:build --input-shape 3x64x64 --preset unit

\b
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
}
"""Option -> its flag, what it needs to have an effect, and whether that is there."""


@click.command(
    epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.argument("model", metavar="MODEL")
@click.option("--int8", is_flag=True, help="Convert to INT8, the one precision there is; required.")
@click.option("-o", "--output", type=FilePath, metavar="DIR", help="Output folder.  [default: NAME_int8]")
@model_options
@sample_options
@calibration_options
@image_options
@qat_options
@engine_options
@click.option("--html/--no-html", default=ConvertOptions.html, show_default=True, help="Write report.html.")
@click.option("--json", "as_json", is_flag=True, help="The report on stdout as JSON.")
@click.option("-v", "--verbose", count=True, help="Logs of the libraries; -vv: tracebacks too.")
@click.option("-q", "--quiet", is_flag=True, help="Warnings and the result alone.")
@click.version_option(__version__, prog_name="zscgan-convert")
@click.pass_context
def command(
    context: click.Context, /, model: str, int8: bool, as_json: bool, verbose: int, quiet: bool, **given: Any
) -> None:
    """Turn the PyTorch classifier MODEL into an INT8 engine without any data.

    MODEL is a state_dict (.pth, .pt, .safetensors), an ONNX file, a TorchScript archive, an exported program (.pt2) or
    the name of a torchvision classifier. The output folder gets FP32 and INT8 ONNX, the ranges, the generator and a
    picture of its samples, the engine, report.json and the same as a page, report.html.
    """
    if not int8:
        raise click.UsageError(f"expected the precision to convert to; type zscgan-convert {model} --int8")
    typed = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    try:
        options = options_from_flags(model, given, typed)
    except (ValueError, OptionsError) as error:
        raise click.UsageError(str(error)) from error
    idle = [
        WarningMessage(
            "option-ignored", f"{flag} has no effect without {need}", f"Leave it out, or add {need}."
        )
        for name, (flag, need, used) in IDLE.items()
        if name in typed and not used(given)
    ]
    sys.exit(run(options, idle, as_json=as_json, verbose=verbose, quiet=quiet))


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
    """Convert and print the result; the exit code. A user's mistake ends with one message."""
    try:
        with stopped_by_sigterm():
            from converter.console import Console
            from converter.pipeline import convert
            from converter.report.summary import missed_gate, summary

            logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)
            console = Console(quiet=quiet)
            for warning in warnings:
                console.warn(warning)
            report = convert(options, console, shlex.join(["zscgan-convert", *sys.argv[1:]]))
    except (ConversionError, CalibrationError, EngineError, OptionsError) as error:
        if verbose > 1:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        return USAGE if isinstance(error, OptionsError) else FAILED
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    missed = missed_gate(report, options.max_drop)
    click.echo(summary(report, missed), err=as_json)
    if as_json:
        click.echo(report.to_json(), nl=False)
    return MISSED if missed else 0


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is half done is removed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main() -> None:
    """The console script.

    OpenMP's workers wait for their next task by spinning. Where another process wants the same core, that costs
    ten times the work itself (measured: 1.1 s in place of 0.09 s for a training step), so they spin less here.
    It has to be said before PyTorch loads OpenMP.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    command()
