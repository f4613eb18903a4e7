"""``zscgan-build``: a command line from ONNX to an engine. Heavy imports wait until the options are right."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from engines.cli.bench import guarded, joined
from engines.options import (
    BUILDABLE,
    HARDWARE,
    TENSORRT_FLAGS,
    BuildOptions,
    batch_from_shapes,
    capabilities_from_text,
    refuse_unused,
    unused_flags,
)

FilePath = click.Path(path_type=Path)


def profile_options(command: Any) -> Any:
    """The options of ``BuildOptions``, for ``zscgan-build`` and ``zscgan-convert``; see ``build_options``."""
    shapes = {
        "min": ("Smallest batch or shape, such as 1 or input:1x3x224x224.", BuildOptions.min_batch),
        "opt": ("The batch or shape to be fastest for.", BuildOptions.opt_batch),
        "max": ("The largest batch or shape.", BuildOptions.max_batch),
    }
    for kind, (text, batch) in reversed(shapes.items()):
        command = click.option(f"--{kind}-shapes", default=str(batch), show_default=True, help=text)(command)
    return click.option(
        "--compute-capability",
        "capabilities",
        metavar="X.Y[,X.Y...]",
        default=joined(BuildOptions.compute_capabilities),
        show_default=True,
        help="GPUs to build for ahead of time (tensorrt-rtx).",
    )(command)


def builder_options(command: Any) -> Any:
    """TensorRT's own build options, for both commands; see ``build_options``."""
    options: tuple[Callable[[Any], Any], ...] = (
        click.option("--fp16", is_flag=True, help="Half precision for what is not INT8 (TensorRT)."),
        click.option("--workspace", "workspace_mib", type=int, metavar="MIB",
                     help="Scratch memory that TensorRT may use.  [default: all of the GPU's]"),
        click.option("--timing-cache", type=FilePath, metavar="FILE",
                     help="TensorRT's timings, read and written: a second build is faster."),
        click.option("--builder-level", type=int, metavar="0-5",
                     help="How long TensorRT searches for fast kernels.  [default: 3, TensorRT's]"),
        click.option("--version-compatible", is_flag=True, help="A plan that later TensorRT versions run too."),
        click.option("--hardware-compatible", type=click.Choice(HARDWARE), default=HARDWARE[0], show_default=True,
                     help="More GPUs that the plan runs on."),
        click.option("--refit", is_flag=True, help="Allow other weights to be put into the plan later."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def build_options(given: Mapping[str, Any]) -> BuildOptions:
    """What ``profile_options`` and ``builder_options`` gave. Raises OptionError, which names the flag."""
    smallest, best, largest = (
        batch_from_shapes(given[f"{kind}_shapes"], f"--{kind}-shapes") for kind in ("min", "opt", "max")
    )
    return BuildOptions(
        compute_capabilities=capabilities_from_text(given["capabilities"]),
        min_batch=smallest,
        opt_batch=best,
        max_batch=largest,
        **{name: given[name] for name in TENSORRT_FLAGS},
    )


@click.command(epilog="Next: zscgan-bench ENGINE measures it.")
@click.argument("model", type=FilePath, metavar="MODEL.onnx")
@click.option("-o", "--output", required=True, type=FilePath, help="Engine file to write.")
@click.option(
    "--engine", type=click.Choice(BUILDABLE), default=BUILDABLE[0], show_default=True, help="Engine to build."
)
@profile_options
@builder_options
@click.option("--log", type=FilePath, metavar="FILE", help="TensorRT's build log.  [default: OUTPUT.log]")
@click.option("-v", "--verbose", is_flag=True, help="The engine's own log on stderr.")
def build(model: Path, output: Path, engine: str, log: Path | None, verbose: bool, **given: Any) -> None:
    """Build an engine from MODEL.onnx: Q/DQ (INT8) or FP32."""  # fmt: skip
    if verbose:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")
    guarded(lambda: _build(model, output, engine, build_options(given), log))


def _build(model: Path, output: Path, engine: str, options: BuildOptions, log: Path | None) -> None:
    refuse_unused(engine, options)
    for flag in unused_flags(engine, options):
        click.echo(f"warning: {flag} has no effect on {engine}", err=True)
    start = time.perf_counter()
    if engine == "onnxruntime":
        from engines.onnxruntime import engine as onnxruntime

        onnxruntime.build(model, output)
        integer, total = onnxruntime.int8_kernels(output)
        detail, following = f"{integer} of {total} convolutions in INT8", f"zscgan-bench {model} {output}"
    else:
        detail, following = _build_plan(model, output, engine, options, log or Path(f"{output}.log"))
    size = output.stat().st_size / 1e6
    click.echo(f"{engine}: {output}, {size:.1f} MB, {detail}", err=True)
    click.echo(f"PASSED in {time.perf_counter() - start:.1f} s; next: {following}", err=True)


def _build_plan(model: Path, output: Path, engine: str, options: BuildOptions, log: Path) -> tuple[str, str]:
    """Builds with TensorRT; what was built, and what to do next."""
    if engine == "tensorrt-rtx":
        from engines.tensorrt.rtx import engine_from_onnx

        engine_from_onnx(model, output, options, log_path=log)
        detail = f"for compute capability {', '.join(options.compute_capabilities)}, log in {log}"
        return detail, f"zscgan-bench {output} on such a GPU"
    from engines.errors import EngineUnavailableError
    from engines.tensorrt.engine import PlanEngine
    from engines.tensorrt.inspector import layers_from_json
    from engines.tensorrt.library import engine_from_onnx as build_tensorrt

    build_tensorrt(model, output, options, log_path=log)
    try:
        with PlanEngine(output, host_code=options.version_compatible) as plan:
            layers = layers_from_json(plan.inspector_json()).summary()
    except EngineUnavailableError as error:  # the builder needs neither PyCUDA nor PyTorch's CUDA
        click.echo(f"warning: the plan is built, but can't be inspected: {error}", err=True)
        layers = "layers unknown"
    return f"{layers}, log in {log}", f"zscgan-bench {output} --batch {options.opt_batch}"
