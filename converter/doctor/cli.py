"""``zscgan-doctor``: what works on this machine, why the rest doesn't, and what to type then."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from converter.doctor.diagnosis import Checkup, Component, checkup_from_findings
from converter.doctor.probes import ask_all
from converter.environment.machine import without_private_names
from converter.version import __version__
from zscgan_common.exit_codes import FAILED, INTERRUPTED
from zscgan_common.tables import NARROW, columns, indented, labelled, terminal_width, text_from, words

SCHEMA = 1
REPORT = "zscgan-doctor.json"

_WIDE = 100
_NAME_WIDTH, _VERSION_WIDTH = 27, 14
"""Alike in all groups, so that their columns stand below one another."""
_GROUPS = {
    "engines": "engine",
    "memory": "GPU memory (--buffers)",
    "state": "GPU clocks and temperature",
    "qat": "fine-tuning (--qat-backend)",
}


def table(checkup: Checkup, width: int = NARROW, *, styled: bool = False) -> str:
    """The machine and its components for a terminal of ``width`` columns."""
    parts: list[RenderableType] = [f"zscgan-convert {__version__}", labelled(_machine_facts(checkup)), ""]
    for group, title in _GROUPS.items():
        components = [component for component in checkup.components if component.group == group]
        parts.append(_group_table(title, components))
        parts.extend((*_notes(components), ""))
    return text_from(*parts, width=width, styled=styled)


def verdict(checkup: Checkup) -> str:
    """The last line but one: which engines can be used here."""
    ready = [engine.name for engine in checkup.engines if engine.builds and engine.runs]
    if not ready:
        return "FAILED: no engine builds and runs here; the lines marked -> say what to do"
    only = [engine.name for engine in checkup.engines if engine.builds and not engine.runs]
    elsewhere = f"; {' and '.join(only)} builds for other machines" if only else ""
    verb = "builds and runs" if len(ready) == 1 else "build and run"
    return f"PASSED: {' and '.join(ready)} {verb} here{elsewhere}"


def _machine_facts(checkup: Checkup) -> Iterator[tuple[str, str]]:
    machine = checkup.machine
    driver = ", ".join(
        f"{name} {machine[key]}"
        for name, key in (("driver", "driver"), ("CUDA", "driver_cuda"))
        if machine[key]
    )
    gpus = [f"{gpu['name']}, compute capability {gpu['compute_capability']}" for gpu in checkup.gpus]
    built = f", built for CUDA {machine['torch_cuda']}" if machine["torch_cuda"] else ""
    yield "Python", f"{machine['python']} on {machine['platform']}"
    yield "CPU", f"{machine['cpu']}, {machine['cores']} cores"
    for text in gpus or [f"none: {machine['no_gpu']}"]:
        yield "GPU", text
    if driver:
        yield "driver", driver.removeprefix("driver ")
    yield from _system_facts(machine)
    yield "PyTorch", f"{machine['torch']}{built}" if machine["torch"] else "not installed"


def _system_facts(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A Jetson's release, and TensorRT from Debian packages, where they are there."""
    if machine["jetpack"] or machine["l4t"]:
        jetpack = f"JetPack {machine['jetpack'] or 'unknown (the package nvidia-jetpack is not installed)'}"
        release = f", Jetson Linux {machine['l4t']}" if machine["l4t"] else ""
        yield "Jetson", jetpack + release
    if machine["system_tensorrt"]:
        yield "system", f"TensorRT {machine['system_tensorrt']} from Debian packages"


def _group_table(title: str, components: Sequence[Component]) -> Table:
    answers = ("builds", "runs") if title == _GROUPS["engines"] else ("works",)
    body = columns(words(title, _NAME_WIDTH), words("version", _VERSION_WIDTH), *map(words, answers))
    for component in components:
        given = (component.runs,) if component.builds is None else (component.builds, component.runs)
        cells = (Text("yes" if answer else "no", "green" if answer else "yellow") for answer in given)
        body.add_row(component.name, component.version or "-", *cells)
    return body


def _notes(components: Sequence[Component]) -> Iterator[RenderableType]:
    """Why a component does not work, and below it what to do then."""
    for component in components:
        if component.reason:
            yield indented(f"{component.name}: {component.reason}", 2)
        if component.fix:
            yield indented(f"-> {component.fix}", 4)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--selftest", is_flag=True, help="Also convert a small network with each engine and compare.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The self-test's report, for a bug report.  [default: {REPORT}]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON on stdout.")
@click.version_option(__version__, prog_name="zscgan-doctor")
def command(selftest: bool, output: Path | None, as_json: bool) -> None:
    """Say what works on this machine: engines, GPU memory, fine-tuning.

    Exit code 0 where at least one engine builds and runs, else 1; with --selftest also 1 where an engine that
    should work does not.
    """  # fmt: skip
    if output is not None and not selftest:
        raise click.UsageError("-o writes the self-test's report; add --selftest")
    try:
        code = run(output or Path(REPORT), selftest=selftest, as_json=as_json)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    sys.exit(code)


def run(output: Path, *, selftest: bool, as_json: bool) -> int:
    """The checkup, printed, and the self-test if wanted; the exit code."""
    click.echo("trying each package in a process of its own ...", err=True)
    checkup = checkup_from_findings(ask_all())
    if not as_json:
        click.echo(table(checkup, terminal_width(_WIDE), styled=sys.stdout.isatty()))
    document = {"schema": SCHEMA, **checkup.to_json()}
    if selftest:
        from converter.doctor.selftest import results_text, selftest_engines

        results = selftest_engines(checkup, lambda text: click.echo(text, err=True))
        document |= {"passed": checkup.passed and results.passed, "selftest": results.to_json()}
        click.echo(results_text(results), err=as_json)
    text = json.dumps(without_private_names(document), indent=2, ensure_ascii=False) + "\n"
    if as_json:
        click.echo(text, nl=False)
    if selftest:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            click.echo(f"error: expected to write {output}: {error.strerror}; give another -o FILE", err=True)
            return FAILED
        click.echo(f"{output} holds all of this, without private names, for a bug report", err=True)
    else:
        click.echo(verdict(checkup), err=as_json)
        click.echo("next: zscgan-doctor --selftest  (converts a small network with each engine)", err=True)
    return 0 if document["passed"] else FAILED


def main() -> None:
    """The console script."""
    os.environ.setdefault(
        "GOMP_SPINCOUNT", "10000"
    )  # for the self-test's processes; see converter.cli.convert.main
    command()
