"""The line of a stage on a terminal while it runs: a spinner, a bar where the amount of work is known, time left."""

import sys
from types import TracebackType

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

BAR_WIDTH = 24


class LiveLine:
    """Context manager: a line for the stage ``name`` is on the terminal until the block ends, then goes.

    Unless ``moving`` it is printed once: to draw it anew takes time from what the stage measures.
    """

    def __init__(self, terminal: Terminal, name: str, *, moving: bool = True) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold"),
            _WhereKnown(bar_width=BAR_WIDTH),
            _Time(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=terminal,
            transient=True,
            auto_refresh=moving,
            redirect_stdout=sys.stdout.isatty(),  # elsewhere it is for a program
        )
        self._task = self._progress.add_task(f"{name:<12}", total=None, note="")

    def start_bar(self, total: int) -> None:
        """Show a bar of ``total`` units from now on."""
        self._progress.update(self._task, total=total, completed=0)

    def end_bar(self) -> None:
        """Show the time alone again."""
        self._progress.update(self._task, note="")
        self._progress.tasks[0].total = None  # for update None is no change

    def advance(self, done: int, note: str = "") -> None:
        """Move the bar to ``done`` units, with a short note beside it."""
        self._progress.update(self._task, completed=done, note=note)

    def __enter__(self) -> "LiveLine":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class _WhereKnown(BarColumn):
    """A bar with its numbers, empty where the amount of work is unknown."""

    def render(self, task: Task):  # type: ignore[no-untyped-def, override] # a bar or a text
        return Text("") if task.total is None else super().render(task)


class _Time(ProgressColumn):
    """The time left where that can be told, else the time that the stage has taken."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(_clock(int(task.elapsed or 0)), style="dim")
        amount = f"{task.completed:.0f}/{task.total:.0f}"
        left = None if task.finished else task.time_remaining
        return Text(amount if left is None else f"{amount}  {_clock(int(left))} left", style="cyan")


def _clock(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
