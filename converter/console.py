"""What a person sees on stderr while the conversion runs: a line for each stage, progress within it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from rich.console import Console as Terminal
from rich.text import Text

from converter.live_line import LiveLine
from zscgan_common.tables import labelled
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

    @property
    def label(self) -> str:
        """The name and the time, of the same width for each stage."""
        return f"{self.name:<12} {self.seconds:7.1f} s"


@dataclass
class Console:
    """Prints stages, notes and progress on stderr; ``quiet`` prints warnings alone.

    ``stages`` and ``warnings`` keep what was said, for the report; ``failed`` is the stage that an error ended. On a
    terminal a line moves while a stage runs, and there are colours; elsewhere each line is plain text.
    """

    quiet: bool = False
    stages: list[Stage] = field(default_factory=list)
    failed: str | None = None
    warnings: list[WarningMessage] = field(default_factory=list)
    terminal: Terminal = field(default_factory=lambda: Terminal(stderr=True, highlight=False, soft_wrap=True))
    _line: LiveLine | None = field(default=None, init=False, repr=False)

    @property
    def live(self) -> bool:
        """Whether lines can move: never in a pipe, also where the environment forces colours on it."""
        terminal = self.terminal
        return terminal.is_terminal and terminal.file.isatty() and not terminal.is_dumb_terminal

    @contextmanager
    def stage(self, name: str, *, moving: bool = True) -> Iterator[Stage]:
        """Times the block; prints the stage's line when the block ends well. ``moving`` is as in ``LiveLine``."""
        stage = Stage(name)
        started = time.perf_counter()
        try:
            with self._live_line(name, moving=moving):
                yield stage
        except BaseException:
            self.failed = self.failed or name  # the inner one
            raise
        stage.seconds = time.perf_counter() - started
        self.stages.append(stage)
        if not self.quiet:
            self._print_stage(stage)

    def info(self, text: str) -> None:
        """A line for the reader, unless quiet."""
        if not self.quiet:
            self.terminal.print(text, markup=False, style="dim" if self.live else None)

    def warn(self, warning: WarningMessage) -> None:
        """A line that is printed even when quiet, and kept for the report."""
        self.warnings.append(warning)
        self.terminal.print(f"warning: {warning}", markup=False, style="yellow")

    @contextmanager
    def progress(self, name: str, total: int) -> Iterator[Advance]:
        """A bar with the time left on a terminal; elsewhere a plain line every 15 seconds, so that logs stay short."""
        with self._live_line(name) as line:
            if line is not None:
                line.start_bar(total)
                yield line.advance
                line.end_bar()
            else:
                yield nothing if self.quiet else self._log_lines(name, total)

    @contextmanager
    def _live_line(self, name: str, *, moving: bool = True) -> Iterator[LiveLine | None]:
        """The line on the terminal, which is the outermost block's; None where there is none."""
        if self._line is not None or self.quiet or not self.live:
            yield self._line
            return
        with LiveLine(self.terminal, name, moving=moving) as line:
            self._line = line
            try:
                yield line
            finally:
                self._line = None

    def _print_stage(self, stage: Stage) -> None:
        if self.live:  # what is too long goes on below the detail
            row = labelled([(Text(stage.label, style="bold"), Text(stage.detail))])
            self.terminal.print(row, soft_wrap=False)
        else:
            self.info(f"{stage.label}  {stage.detail}")

    def _log_lines(self, name: str, total: int) -> Advance:
        last = time.monotonic()

        def advance(done: int, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last >= LOG_EVERY_S:
                last = time.monotonic()
                self.info(f"  {name} {done}/{total}  {note}".rstrip())

        return advance


def silent_console() -> Console:
    """One that prints nothing at all, and keeps stages and warnings for the report."""
    return Console(quiet=True, terminal=Terminal(quiet=True))
