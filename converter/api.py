"""``from converter import convert``: the whole conversion as a function, with the options of the command line."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.cli.convert import command, request_from
from converter.cli.params import ResizeType, ShapeType
from converter.errors import OptionsError
from converter.options import ConvertOptions
from converter.torchrun.ranks import launched
from converter.workspace import CPU_ENGINE, FP32_ONNX, INT8_ONNX, RTX_ENGINE, TENSORRT_ENGINE
from zscgan_common.warning_message import WarningMessage

if TYPE_CHECKING:  # it loads torch, which takes seconds
    from converter.report.document import Report, ThroughputSection
else:
    Report = ThroughputSection = Any

Files = str | Path
CLI_ONLY = frozenset({"int8", "json", "verbose", "quiet", "version", "help_all"})
"""Options of ``zscgan-convert`` that are no keywords: they say what is printed, or go without saying."""


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: its files, and what was measured. As a text, it is the summary of the command line.

    ``sections`` is the report with a dataclass for each section. ``missed`` says why ``max_drop`` was missed; it is
    empty where it was met or not set.
    """

    sections: Report
    missed: str = ""

    def __str__(self) -> str:
        from converter.report.summary import summary

        return summary(self.sections, self.missed).strip()

    @property
    def report(self) -> dict[str, Any]:
        """The content of ``report.json``; ``docs/report.md`` describes each field."""
        document: dict[str, Any] = json.loads(self.sections.to_json())
        return document

    @property
    def passed(self) -> bool:
        """Whether ``max_drop`` was met, or not set."""
        return not self.missed

    @property
    def files(self) -> dict[str, Path]:
        """The files of the conversion by name."""
        return {name: Path(path) for name, path in self.sections.artifacts.items()}

    @property
    def output(self) -> Path:
        """The output folder."""
        return self.int8_onnx.parent

    @property
    def fp32_onnx(self) -> Path:
        """The network before quantization."""
        return self.files[FP32_ONNX]

    @property
    def int8_onnx(self) -> Path:
        """The network with Q/DQ pairs, which TensorRT builds an engine from."""
        return self.files[INT8_ONNX]

    @property
    def engine(self) -> Path:
        """The engine that was built: of TensorRT where there is one, else of ONNX Runtime."""
        files = self.files
        return next(files[name] for name in (TENSORRT_ENGINE, RTX_ENGINE, CPU_ENGINE) if name in files)

    @property
    def metric(self) -> str | None:
        """What both accuracies are in percent of; None without labels in ``val``."""
        return self.sections.accuracy.metric if self.sections.accuracy else None

    @property
    def fp32_accuracy(self) -> float | None:
        """The accuracy of the FP32 network on ``val``, in percent."""
        return self.sections.accuracy.fp32 if self.sections.accuracy else None

    @property
    def int8_accuracy(self) -> float | None:
        """The accuracy of the engine on ``val``, in percent."""
        return self.sections.accuracy.int8 if self.sections.accuracy else None

    @property
    def agreement(self) -> float | None:
        """How often INT8 agrees with FP32, in percent: on ``val``, else on fresh samples; None where unknown."""
        if self.sections.accuracy is not None:
            return self.sections.accuracy.agreement
        return self.sections.agreement.percent if self.sections.agreement else None

    @property
    def throughput(self) -> tuple[ThroughputSection, ...]:
        """Engine, precision, batch, images a second and latencies of what was measured."""
        return tuple(self.sections.throughput)

    @property
    def warnings(self) -> tuple[WarningMessage, ...]:
        """What the command line would have warned of."""
        return tuple(self.sections.warning_details)


# fmt: off
def convert(
    model: Files, *,
    arch: str | None = None, trust_pickle: bool = False, task: str | None = None, decode: str | None = None,
    input_shape: tuple[int, int, int] | str | None = None, mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None, preset: str | None = None, channel_order: str | None = None,
    samples: str | None = None, gan_steps: int | None = None, gan_batch: int | None = None,
    guide_steps: int | None = None,
    generator: Files | None = None, seed: int | None = None, device: str | None = None,
    calibrator: str | None = None, percentile: float | None = None, calib_samples: int | None = None,
    calib_data: Files | None = None, calibration_cache: Files | None = None, recalibrate: bool = False,
    trt_version: str | None = None,
    val: Files | None = None, resize: int | tuple[int, int] | None = None, crop: int | None = None,
    max_drop: float | None = None,
    qat: bool = False, qat_steps: int | None = None, qat_lr: float | None = None, qat_data: Files | None = None,
    qat_backend: str | None = None,
    engine: str | None = None, implicit: bool = False, compute_capability: str | Sequence[str] | None = None,
    min_shapes: int | str | None = None, opt_shapes: int | str | None = None, max_shapes: int | str | None = None,
    buffers: str | None = None,
    cpu_int8: str | None = None,
    fp16: bool = False, workspace: int | None = None, timing_cache: Files | None = None,
    builder_optimization_level: int | None = None, version_compatible: bool = False,
    hardware_compatibility_level: str | None = None, refit: bool = False,
    output: Files | None = None, html: bool | None = None,
    progress: bool = False,
) -> Conversion:
    """Turn ``model`` into an INT8 engine, as ``zscgan-convert MODEL --int8`` does, and return what came of it.

    Each keyword is the option of that name, which ``zscgan-convert --help-all`` describes; what is None or False has
    the default of the command line. Nothing is printed unless ``progress``. A missed ``max_drop`` is no error: see
    ``Conversion.passed``.

    Raises OptionsError for keywords that are wrong by themselves or together, and ConversionError, CalibrationError
    or EngineError for what else the user can fix. All of them are ZSCGANErrors.
    """
    # fmt: on
    given = {name: value for name, value in locals().items() if name not in ("model", "progress")}
    words = command_line(model, given)
    options, warnings = request_of(words)
    return run(options, warnings, words, progress=progress)


def keywords() -> dict[str, click.Option]:
    """Keyword -> the option of ``zscgan-convert``: its first long flag."""
    options = [option for option in command.params if isinstance(option, click.Option)]
    return {
        next(flag for flag in option.opts if flag.startswith("--"))[2:].replace("-", "_"): option
        for option in options
    }


def command_line(model: Files, given: Mapping[str, Any]) -> list[str]:
    """The arguments of ``zscgan-convert`` that say the same as the keywords."""
    options = keywords()
    words = [str(model), "--int8"]
    for name, value in given.items():
        option = options[name]
        if option.is_flag:
            words += (option.opts if value else option.secondary_opts)[:1] if value is not None else []
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", text_of(value, option)]
    return words


def text_of(value: Any, option: click.Option) -> str:
    """``value`` as it is typed for ``option``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return ("x" if isinstance(option.type, ShapeType | ResizeType) else ",").join(map(str, value))


def request_of(words: list[str]) -> tuple[ConvertOptions, list[WarningMessage]]:
    """The options that ``words`` stand for. Raises OptionsError, whose message names the flag."""
    try:
        with command.make_context("zscgan-convert", list(words)) as context:
            return request_from(context)
    except click.UsageError as error:
        raise OptionsError(error.format_message()) from error


def run(
    options: ConvertOptions, warnings: list[WarningMessage], words: list[str], *, progress: bool
) -> Conversion:
    """Convert. Raises OptionsError under torchrun, whose other processes would end in here."""
    from converter.console import Console, silent_console
    from converter.pipeline import convert as run_stages
    from converter.report.summary import missed_gate

    if launched():
        raise OptionsError(
            "expected one process, but torchrun started this one with others; type torchrun -m converter "
            f"{shlex.join(words)}"
        )
    console = Console() if progress else silent_console()
    for warning in warnings:
        console.warn(warning)
    report = run_stages(options, console, shlex.join(["zscgan-convert", *words]))
    return Conversion(report, missed_gate(report, options.max_drop))
