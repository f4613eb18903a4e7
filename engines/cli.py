"""``zscgan-bench`` and ``zscgan-build``: command lines. Heavy imports wait until the options are right."""

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from engines.errors import EngineError
from engines.options import (
    BUILDABLE,
    BenchOptions,
    BuildOptions,
    OptionError,
    batch_from_shapes,
    capabilities_from_text,
)

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between, as a tuple."""

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind
        self.name = "N[,N...]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"expected numbers with commas between, got {value!r}", param, ctx)


def _joined(values: tuple[object, ...]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _guarded(work: Callable[[], None]) -> None:
    """Runs ``work``; a user's mistake ends with one message and the exit code that belongs to it."""
    code = 0
    try:
        work()
    except OptionError as error:
        raise click.UsageError(str(error)) from error
    except EngineError as error:
        click.echo(f"error: {error}", err=True)
        code = FAILED
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    if code:
        sys.exit(code)


@click.command(epilog="Next: zscgan-build makes an engine of an ONNX file.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--batch",
    "batches",
    type=Numbers(int),
    default=_joined(BenchOptions.batches),
    show_default=True,
    help="Batch sizes to measure.",
)
@click.option(
    "--warmup-ms",
    type=float,
    default=BenchOptions.warmup_ms,
    show_default=True,
    help="Unmeasured queries before.",
)
@click.option(
    "--duration-s",
    type=float,
    default=BenchOptions.duration_s,
    show_default=True,
    help="Time for each file and batch; never fewer than 10 queries.",
)
@click.option(
    "--percentile",
    "percentiles",
    type=Numbers(float),
    default=_joined(BenchOptions.percentiles),
    show_default=True,
    help="Latency percentiles.",
)
@click.option(
    "--threads", type=int, default=BenchOptions.threads, show_default="all cores", help="CPU threads."
)
@click.option("--seed", type=int, default=BenchOptions.seed, show_default=True, help="Of the random input.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on stdout.")
def bench(files: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Measure the throughput of engine or ONNX FILEs with random input, by trtexec's rules.

    Several FILEs take turns in one run; the last column compares with the first of them.
    """  # fmt: skip
    _guarded(lambda: _bench(files, BenchOptions(**given), as_json))


def _bench(files: tuple[Path, ...], options: BenchOptions, as_json: bool) -> None:
    from engines.benchmark import compare, ratios
    from engines.onnxruntime import OnnxRuntimeEngine
    from engines.tensorrt_rtx import run

    for path in files:
        if path.suffix in {".plan", ".engine", ".trt"}:
            run(path)
    start = time.perf_counter()
    with ExitStack() as stack:
        engines = [stack.enter_context(OnnxRuntimeEngine(path, options.threads)) for path in files]
        click.echo(
            f"Random input (standard normal, seed {options.seed}); {options.warmup_ms:g} ms warm-up, then "
            f"{options.duration_s:g} s each in {options.rounds} alternating rounds; latency is that of a batch.",
            err=True,
        )
        results = compare(engines, options)
    names = [str(path) for path in files] * len(options.batches)
    rows = [
        {"file": name, **result.to_json(), "ratio": ratio}
        for name, result, ratio in zip(names, results, ratios(results, len(files)), strict=True)
    ]
    if as_json:
        click.echo(json.dumps({"input": "random", "seed": options.seed, "throughput": rows}, indent=2))
    else:
        click.echo(_table(rows))
    click.echo(f"PASSED in {time.perf_counter() - start:.1f} s", err=True)


def _table(rows: list[dict[str, Any]]) -> str:
    percentiles = list(rows[0]["latency_ms"])
    width = max(len(row["file"]) for row in rows)
    heads = " ".join(f"{f'{name} ms':>10}" for name in percentiles)
    lines = [f"{'file':<{width}} precision batch {'images/s':>10} {heads}   ratio"]
    for row in rows:
        latencies = " ".join(f"{row['latency_ms'][name]:>10.2f}" for name in percentiles)
        lines.append(
            f"{row['file']:<{width}} {row['precision']:<9} {row['batch']:>5} {row['images_per_s']:>10.1f} "
            f"{latencies} {row['ratio']:>6.2f}x"
        )
    return "\n".join(lines)


def profile_options(command: Any) -> Any:
    """The options of ``BuildOptions``, for ``zscgan-build`` and ``zscgan-convert``; see ``build_options``."""
    shapes = {
        "min": (
            "Smallest batch or shape (tensorrt-rtx), such as 1 or input:1x3x224x224.",
            BuildOptions.min_batch,
        )
    }
    shapes["opt"] = ("The batch or shape to be fastest for.", BuildOptions.opt_batch)
    shapes["max"] = ("The largest batch or shape.", BuildOptions.max_batch)
    for kind, (text, batch) in reversed(shapes.items()):
        command = click.option(f"--{kind}-shapes", default=str(batch), show_default=True, help=text)(command)
    return click.option(
        "--compute-capability",
        "capabilities",
        metavar="X.Y[,X.Y...]",
        default=_joined(BuildOptions.compute_capabilities),
        show_default=True,
        help="GPUs to build for ahead of time (tensorrt-rtx).",
    )(command)


def build_options(given: Mapping[str, Any]) -> BuildOptions:
    """What ``profile_options`` gave. Raises OptionError, which names the flag."""
    batches = (
        batch_from_shapes(given[f"{kind}_shapes"], f"--{kind}-shapes") for kind in ("min", "opt", "max")
    )
    return BuildOptions(capabilities_from_text(given["capabilities"]), *batches)


@click.command(epilog="Next: zscgan-bench ENGINE measures an ONNX Runtime engine.")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Engine file to write.")
@click.option(
    "--engine", type=click.Choice(BUILDABLE), default=BUILDABLE[0], show_default=True, help="Engine to build."
)
@profile_options
@click.option("-v", "--verbose", is_flag=True, help="The engine's own log on stderr.")
def build(model: Path, output: Path, engine: str, verbose: bool, **given: str) -> None:
    """Build an engine from MODEL.onnx: Q/DQ (INT8) or FP32."""  # fmt: skip
    if verbose:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")
    _guarded(lambda: _build(model, output, engine, build_options(given)))


def _build(model: Path, output: Path, engine: str, options: BuildOptions) -> None:
    start = time.perf_counter()
    if engine == "tensorrt-rtx":
        from engines.tensorrt_rtx import engine_from_onnx

        engine_from_onnx(model, output, options)
        detail = f"for compute capability {', '.join(options.compute_capabilities)}"
        following = "run it with TensorRT for RTX on such a GPU"
    else:
        from engines import onnxruntime

        onnxruntime.build(model, output)
        integer, total = onnxruntime.int8_kernels(output)
        detail = f"{integer} of {total} convolutions in INT8"
        following = f"zscgan-bench {model} {output}"
    size = output.stat().st_size / 1e6
    click.echo(f"{engine}: {output}, {size:.1f} MB, {detail}", err=True)
    click.echo(f"PASSED in {time.perf_counter() - start:.1f} s; next: {following}", err=True)
