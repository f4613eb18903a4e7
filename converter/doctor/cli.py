"""``zscgan-doctor``: what works on this machine, why the rest doesn't, and what to type then."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from converter import __version__
from converter.doctor.diagnosis import Checkup, Component, checkup_from_findings
from converter.doctor.probes import ask_all
from converter.environment.machine import without_private_names
from zscgan_common.exit_codes import FAILED, INTERRUPTED

SCHEMA = 1
REPORT = "zscgan-doctor.json"

_NARROW, _WIDE = 80, 100
_GROUPS = {
    "engines": "engine",
    "memory": "GPU memory (--buffers)",
    "state": "GPU clocks and temperature",
    "qat": "fine-tuning (--qat-backend)",
}
_INDENT = "    "


def table(checkup: Checkup, width: int = _NARROW) -> str:
    """The machine and its components for a terminal of ``width`` columns."""
    lines = [f"zscgan-convert {__version__}", *_machine_lines(checkup, width), ""]
    for group, title in _GROUPS.items():
        columns = f"{'builds':<8}{'runs':<6}" if group == "engines" else f"{'works':<6}"
        lines.append(click.style(f"{title:<28}{'version':<16}{columns}".rstrip(), bold=True))
        for component in checkup.components:
            if component.group == group:
                lines.extend(_component_lines(component, width))
        lines.append("")
    return "\n".join(lines)


def verdict(checkup: Checkup) -> str:
    """The last line but one: which engines can be used here."""
    ready = [engine.name for engine in checkup.engines if engine.builds and engine.runs]
    if not ready:
        return "FAILED: no engine builds and runs here; the lines marked -> say what to do"
    only = [engine.name for engine in checkup.engines if engine.builds and not engine.runs]
    elsewhere = f"; {' and '.join(only)} builds for other machines" if only else ""
    verb = "builds and runs" if len(ready) == 1 else "build and run"
    return f"PASSED: {' and '.join(ready)} {verb} here{elsewhere}"


def _machine_lines(checkup: Checkup, width: int) -> Iterator[str]:
    machine = checkup.machine
    driver = ", ".join(
        f"{name} {machine[key]}"
        for name, key in (("driver", "driver"), ("CUDA", "driver_cuda"))
        if machine[key]
    )
    gpus = [f"{gpu['name']}, compute capability {gpu['compute_capability']}" for gpu in checkup.gpus]
    built = f", built for CUDA {machine['torch_cuda']}" if machine["torch_cuda"] else ""
    facts = [
        ("Python", f"{machine['python']} on {machine['platform']}"),
        ("CPU", f"{machine['cpu']}, {machine['cores']} cores"),
        *(("GPU", text) for text in gpus or [f"none: {machine['no_gpu']}"]),
        *([("driver", driver.removeprefix("driver "))] if driver else []),
        *_system_lines(machine),
        ("PyTorch", f"{machine['torch']}{built}" if machine["torch"] else "not installed"),
    ]
    for name, text in facts:
        yield from _wrapped(text, width, f"{name:<9}", " " * 9)


def _system_lines(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A Jetson's release, and TensorRT from Debian packages, where they are there."""
    if machine["jetpack"] or machine["l4t"]:
        jetpack = f"JetPack {machine['jetpack'] or 'unknown (the package nvidia-jetpack is not installed)'}"
        release = f", Jetson Linux {machine['l4t']}" if machine["l4t"] else ""
        yield "Jetson", jetpack + release
    if machine["system_tensorrt"]:
        yield "system", f"TensorRT {machine['system_tensorrt']} from Debian packages"


def _component_lines(component: Component, width: int) -> Iterator[str]:
    answers = [component.runs] if component.builds is None else [component.builds, component.runs]
    cells = "".join(
        _answer(answer, 8 if len(answers) == 2 and index == 0 else 0) for index, answer in enumerate(answers)
    )
    yield f"{component.name:<28}{component.version or '-':<16}{cells}"
    if component.reason:
        yield from _wrapped(component.reason, width, _INDENT, _INDENT)
    if component.mend:
        yield from _wrapped(component.mend, width, f"{_INDENT}-> ", f"{_INDENT}   ")


def _answer(answer: bool, width: int) -> str:
    return click.style(f"{'yes' if answer else 'no':<{width}}", fg="green" if answer else "yellow")


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


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
        width = min(max(shutil.get_terminal_size((_NARROW, 24)).columns, _NARROW), _WIDE)
        click.echo(table(checkup, width))
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
