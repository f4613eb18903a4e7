"""What a person sees on stderr while the conversion runs: a line for each stage, progress within it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from zscgan_common.warning_message import WarningMessage

LOG_EVERY_S = 15.0


@runtime_checkable
class Advance(Protocol):
    """Called with the number of units done and a short note."""

    def __call__(self, done: int, note: str = "") -> None: ...


def nothing(done: int, note: str = "") -> None:
    """Progress that nobody sees."""


@dataclass
class Stage:
    """One stage of the pipeline: its name, how long it took and what came of it."""

    name: str
    seconds: float = 0.0
    detail: str = ""


@dataclass
class Console:
    """Prints stages, notes and progress on stderr; ``quiet`` prints warnings alone.

    ``stages`` and ``warnings`` keep what was said, for the report; ``failed`` is the stage that an error ended.
    """

    quiet: bool = False
    stages: list[Stage] = field(default_factory=list)
    failed: str | None = None
    warnings: list[WarningMessage] = field(default_factory=list)
    terminal: Terminal = field(default_factory=lambda: Terminal(stderr=True, highlight=False, soft_wrap=True))

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Times the block; prints the stage's line when the block ends well."""
        stage = Stage(name)
        started = time.perf_counter()
        try:
            yield stage
        except BaseException:
            self.failed = self.failed or name  # the inner one
            raise
        stage.seconds = time.perf_counter() - started
        self.stages.append(stage)
        self.info(f"{name:<12} {stage.seconds:7.1f} s  {stage.detail}")

    def info(self, text: str) -> None:
        """A line for the reader, unless quiet."""
        if not self.quiet:
            self.terminal.print(text, markup=False)

    def warn(self, warning: WarningMessage) -> None:
        """A line that is printed even when quiet, and kept for the report."""
        self.warnings.append(warning)
        self.terminal.print(f"warning: {warning}", markup=False, style="yellow")

    @contextmanager
    def progress(self, name: str, total: int) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere a plain line every 15 seconds, so that logs stay short."""
        if self.quiet:
            yield nothing
        elif sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
            )
            bar = Progress(
                *columns,
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.terminal,
                transient=True,
            )
            with bar:
                task = bar.add_task(name, total=total, note="")

                def advance(done: int, note: str = "") -> None:
                    bar.update(task, completed=done, note=note)

                yield advance
        else:
            yield self._log_lines(name, total)

    def _log_lines(self, name: str, total: int) -> Advance:
        last = time.monotonic()

        def advance(done: int, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= LOG_EVERY_S:
                last = time.monotonic()
                self.info(f"  {name} {done}/{total}  {note}".rstrip())

        return advance
