"""``zscgan-bench``: a command line that measures. Heavy imports wait until the options are right."""

import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from engines.cli.params import FilePath, Numbers, joined
from engines.cli.spellings import CONTEXT
from engines.errors import EngineError
from engines.options import (
    BUFFERS,
    ENGINES,
    BenchOptions,
    OptionError,
)
from zscgan_common.exit_codes import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from rich.table import Table

_FILE_WIDTH = 16
"""To no less than this is the name of a file folded."""


def guard(work: Callable[[], None]) -> None:
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


@cloup.command(epilog="Next: zscgan-build makes an engine of an ONNX file.", context_settings=CONTEXT)
@cloup.argument("files", nargs=-1, required=True, type=FilePath, metavar="FILE...")
@cloup.option_group(
    "Measurement",
    cloup.option(
        "--batch",
        "batches",
        type=Numbers(int),
        default=joined(BenchOptions.batches),
        show_default=True,
        help="Batch sizes to measure.",
    ),
    cloup.option(
        "--warmup-ms",
        type=float,
        default=BenchOptions.warmup_ms,
        show_default=True,
        help="Unmeasured queries before.",
    ),
    cloup.option(
        "--duration-s",
        type=float,
        default=BenchOptions.duration_s,
        show_default=True,
        help="Time for each file and batch; never fewer than 10 queries.",
    ),
    cloup.option(
        "--percentile",
        "percentiles",
        type=Numbers(float),
        default=joined(BenchOptions.percentiles),
        show_default=True,
        help="Latency percentiles.",
    ),
    cloup.option(
        "--seed", type=int, default=BenchOptions.seed, show_default=True, help="Of the random input."
    ),
)
@cloup.option_group(
    "Engine",
    cloup.option(
        "--engine",
        type=click.Choice(ENGINES),
        default=ENGINES[0],
        show_default=True,
        help="What runs ONNX files; TensorRT builds them first. Plans know theirs.",
    ),
    cloup.option(
        "--threads", type=int, default=BenchOptions.threads, show_default="all cores", help="CPU threads."
    ),
)
@cloup.option_group(
    "GPU",
    cloup.option("--cuda-graph", is_flag=True, help="Launch each query as one CUDA graph."),
    cloup.option("--no-transfers", is_flag=True, help="Leave the copies to and from the device out."),
    cloup.option(
        "--streams",
        type=int,
        default=BenchOptions.streams,
        show_default=True,
        help="Execution contexts that run at a time.",
    ),
    cloup.option(
        "--buffers",
        type=click.Choice(BUFFERS),
        default=BenchOptions.buffers,
        show_default=True,
        help="What provides its memory.",
    ),
    cloup.option(
        "--version-compatible",
        "host_code",
        is_flag=True,
        help="Let a version-compatible plan run the code that it brings; only for plans that you trust.",
    ),
)
@cloup.option_group(
    "Output",
    cloup.option("--json", "as_json", is_flag=True, help="The figures as JSON on stdout."),
    cloup.option("-v", "--verbose", is_flag=True, help="TensorRT's own log on stderr."),
)  # fmt: skip
def bench(
    files: tuple[Path, ...], engine: str, no_transfers: bool, as_json: bool, verbose: bool, **given: Any
) -> None:
    """Measure the throughput of engine or ONNX FILEs with random input, by trtexec's rules.

    Several FILEs take turns in one run; the last column compares with the first of them.
    """  # fmt: skip
    if verbose:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")
    guard(lambda: _bench(files, engine, BenchOptions(transfers=not no_transfers, **given), as_json))


def _bench(files: tuple[Path, ...], engine: str, options: BenchOptions, as_json: bool) -> None:
    from engines.bench.compare import compare, ratios
    from engines.bench.gpu_notes import gpu_entry, say_doubts, say_rules
    from engines.bench.gpu_watch import GpuWatch
    from engines.bench.open import open_engines

    start = time.perf_counter()
    with ExitStack() as stack:
        engines, device = open_engines(files, engine, options, _say, stack)
        _say(
            f"Random input (standard normal, seed {options.seed}); {options.warmup_ms:g} ms warm-up, then "
            f"{options.duration_s:g} s each in {options.rounds} alternating rounds; latency is that of a batch."
        )
        gpu: dict[str, Any] | None = None
        if device is None:
            results = compare(engines, options)
        else:
            say_rules(device, options, _say)
            with GpuWatch(device.pci_bus_id) as watch:
                results = compare(engines, options, measuring=watch.running)
            gpu = gpu_entry(device, options, watch)
            say_doubts(gpu, _say)
    names = [str(path) for path in files] * len(options.batches)
    rows: list[dict[str, Any]] = [
        {"file": name, **result.to_json(), "ratio": ratio}
        for name, result, ratio in zip(names, results, ratios(results, len(files)), strict=True)
    ]
    for row in rows:
        for warning in row.get("warnings", ()):
            _say(f"warning: {row['file']}, batch {row['batch']}: {warning}")
    if as_json:
        report = {
            "input": "random",
            "seed": options.seed,
            **({"gpu": gpu} if gpu else {}),
            "throughput": rows,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(_tables(rows))
    _say(f"PASSED in {time.perf_counter() - start:.1f} s")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _tables(rows: list[dict[str, Any]]) -> str:
    """What was measured and, on a GPU, what the queries are made of."""
    from zscgan_common.tables import columns, figures, words

    percentiles = list(rows[0]["latency_ms"])
    heads = ("batch", "images/s", *(f"{name} ms" for name in percentiles), "ratio")
    tables = [columns(words("file"), words("precision"), *map(figures, heads), gap=1)]
    for row in rows:
        latencies = (f"{row['latency_ms'][name]:.2f}" for name in percentiles)
        speed = (str(row["batch"]), f"{row['images_per_s']:.1f}", *latencies, f"{row['ratio']:.2f}x")
        tables[0].add_row(row["file"], row["precision"], *speed)
    if timed := [row for row in rows if "parts_ms" in row]:
        parts = list(timed[0]["parts_ms"])
        heads = ("batch", *(name.replace("_", " ") for name in parts))
        tables.append(columns(words("median ms of"), *map(figures, heads), gap=1))
        for row in timed:
            medians = (f"{row['parts_ms'][name]['median']:.3f}" for name in parts)
            tables[1].add_row(row["file"], str(row["batch"]), *medians)
    return "\n\n".join(_fitted(table, [row["file"] for row in rows]) for table in tables)


def _fitted(table: "Table", files: list[str]) -> str:
    """The table in the width of the terminal: names of files are folded for it, figures never."""
    from zscgan_common.tables import UNBOUNDED, terminal_width, text_from

    whole, longest = text_from(table, width=UNBOUNDED), max(map(len, files))
    least = max(map(len, whole.splitlines())) - longest + min(longest, _FILE_WIDTH)
    return text_from(table, width=max(terminal_width(), least))
