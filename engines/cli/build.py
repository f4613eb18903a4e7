"""``zscgan-build``: a command line from ONNX to an engine. Heavy imports wait until the options are right."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import click
import cloup

from engines.cli.bench import guard
from engines.cli.options import build_options, builder_options, cpu_int8_option, profile_options
from engines.cli.params import FilePath
from engines.cli.spellings import CONTEXT
from engines.options import BUILDABLE, CPU_INT8, BuildOptions, refuse_unused, unused_flags


@cloup.command(epilog="Next: zscgan-bench ENGINE measures it.", context_settings=CONTEXT)
@cloup.argument("model", type=FilePath, metavar="MODEL.onnx")
@cloup.option_group(
    "Engine",
    cloup.option(
        "--engine",
        type=click.Choice(BUILDABLE),
        default=BUILDABLE[0],
        show_default=True,
        help="Engine to build.",
    ),
    cpu_int8_option,
    *profile_options,
)
@builder_options
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", required=True, type=FilePath, help="Engine file to write."),
    cloup.option("--log", type=FilePath, metavar="FILE", help="TensorRT's build log.  [default: OUTPUT.log]"),
    cloup.option("-v", "--verbose", is_flag=True, help="The engine's own log on stderr."),
)
def build(
    model: Path, output: Path, engine: str, cpu_int8: str, log: Path | None, verbose: bool, **given: Any
) -> None:
    """Build an engine from MODEL.onnx: Q/DQ (INT8) or FP32."""  # fmt: skip
    if verbose:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")
    guard(lambda: _build(model, output, engine, cpu_int8, build_options(given), log))


def _build(
    model: Path, output: Path, engine: str, cpu_int8: str, options: BuildOptions, log: Path | None
) -> None:
    refuse_unused(engine, options)
    idle = ["--cpu-int8"] if engine != "onnxruntime" and cpu_int8 != CPU_INT8[0] else []
    for flag in (*unused_flags(engine, options), *idle):
        click.echo(f"warning: {flag} has no effect on {engine}", err=True)
    start = time.perf_counter()
    if engine == "onnxruntime":
        detail, following = _build_for_cpu(model, output, cpu_int8), f"zscgan-bench {model} {output}"
    else:
        detail, following = _build_plan(model, output, engine, options, log or Path(f"{output}.log"))
    size = output.stat().st_size / 1e6
    click.echo(f"{engine}: {output}, {size:.1f} MB, {detail}", err=True)
    click.echo(f"PASSED in {time.perf_counter() - start:.1f} s; next: {following}", err=True)


def _build_for_cpu(model: Path, output: Path, cpu_int8: str) -> str:
    """Builds ONNX Runtime's engine; what was built."""
    from engines.onnxruntime import engine as onnxruntime
    from engines.onnxruntime.fastest import build_fastest

    in_float = ""
    if cpu_int8 == "all":
        onnxruntime.build(model, output)
    elif (choice := build_fastest(model, output)).in_float:
        in_float = f", {len(choice.in_float)} of {choice.layers} layers in float, which is faster here"
    integer, total = onnxruntime.int8_kernels(output)
    return f"{integer} of {total} convolutions in INT8{in_float}"


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
