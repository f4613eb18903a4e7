"""``zscgan-samples``: calibration data for other tools. Nothing heavy is imported before the options are right."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import cloup

from calibrators.options import CalibrationOptions
from calibrators.zscgan.options import ZSCGANOptions
from converter.cli.brief_help import BriefCommand, help_all_option, model_argument
from converter.cli.options import input_options, log_options, model_options, sample_options
from converter.cli.process import exit_code, tune_process
from converter.errors import OptionsError
from converter.load.options import ModelOptions
from converter.options import SampleOptions
from converter.version import __version__
from engines.cli.params import FilePath
from engines.cli.spellings import CONTEXT

MOST_USED = ("output", "count", "normalised", "preset", "arch", "overwrite")
EXAMPLES = """\b
Examples:
  zscgan-samples resnet18.pth -o calib.npz --normalised
  python -m modelopt.onnx.quantization --onnx_path resnet18.onnx --calibration_data_path calib.npz
  zscgan-samples yolov8n.onnx --preset unit -o calib/
  yolo export model=yolov8n.pt format=engine int8=True data=calib/data.yaml"""
EXIT_CODES = """\b
Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted (the same command goes on with the training)."""


@cloup.command(
    cls=BriefCommand,
    most_used=MOST_USED,
    examples=EXAMPLES,
    exit_codes=EXIT_CODES,
    context_settings=CONTEXT,
)
@model_argument
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", type=FilePath, required=True, metavar="FILE.npz|DIR",
                 help="An archive of uint8 images [N, H, W, C] and labels, or a folder of PNG files with "
                 "labels.csv and data.yaml."),
    cloup.option("-n", "--count", type=int, default=CalibrationOptions.samples, show_default=True,
                 help="Samples to make."),
    cloup.option("--normalised", is_flag=True, help="Write float32 [N, C, H, W] as the network takes them, under the "
                 "name of its ONNX input, as ModelOpt and Polygraphy read them."),
    cloup.option("--input-name", metavar="NAME", help="That name.  [default: the ONNX file's; input for other MODELs]"),
    cloup.option("--class-folders", "by_class", is_flag=True, help="A folder of PNG files for each class."),
    cloup.option("--report", is_flag=True, help="Add a picture, the generator and samples.json: what the samples were "
                 "made for, and how good they are."),
    cloup.option("--overwrite", is_flag=True, help="Replace an output that exists."),
)  # fmt: skip
@model_options
@input_options
@sample_options
@log_options
@click.version_option(__version__, prog_name="zscgan-samples")
@help_all_option
def command(model: str, verbose: int, quiet: bool, **given: Any) -> None:
    """Make calibration data for the vision network MODEL from nothing but MODEL.

    MODEL is what zscgan-convert takes. The samples are those that it would calibrate with; where their labels are
    written, procedural images, which have none, are left out (--samples both keeps these).
    """
    try:
        options = options_from_flags(model, given)
    except (ValueError, OptionsError) as error:
        raise click.UsageError(str(error)) from error
    sys.exit(exit_code(lambda: _run(options, quiet), verbose))


def options_from_flags(model: str, given: dict[str, Any]) -> SampleOptions:
    """The flags as options. Raises ValueError or OptionsError."""

    def some(kind: type[Any]) -> dict[str, Any]:
        names = {entry.name for entry in fields(kind)} - {"model"}
        return {name: value for name, value in given.items() if name in names}

    return SampleOptions(
        model=ModelOptions(model=model, **some(ModelOptions)),
        synthesis=ZSCGANOptions(**some(ZSCGANOptions)),
        **some(SampleOptions),
    )


def _run(options: SampleOptions, quiet: bool) -> int:
    from converter.console import Console
    from converter.make_samples import make_samples

    written: list[Path] = make_samples(options, Console(quiet=quiet))
    for path in written:
        click.echo(path)
    return 0


def main() -> None:
    """The console script."""
    tune_process()
    command()
