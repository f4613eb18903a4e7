import io
import re

import pytest
from rich.console import Console as Terminal

from converter import console
from converter.console import Console
from zscgan_common.warning_message import WarningMessage


def reporter(**options: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(terminal=Terminal(file=stream, width=200), **options), stream


def test_a_stage_says_its_name_and_what_came_of_it() -> None:
    report, stream = reporter()
    with report.stage("load") as stage:
        stage.detail = "10 classes [not markup]"
    assert stream.getvalue().startswith("load")
    assert stream.getvalue().endswith("s  10 classes [not markup]\n")
    assert [(s.name, s.detail) for s in report.stages] == [("load", "10 classes [not markup]")]


def test_a_failed_stage_says_nothing() -> None:
    report, stream = reporter()
    with pytest.raises(ZeroDivisionError), report.stage("load"):
        raise ZeroDivisionError
    assert stream.getvalue() == ""


def test_quiet_prints_warnings_alone() -> None:
    report, stream = reporter(quiet=True)
    with report.stage("load"), report.progress("work", 10) as advance:
        advance(5, "half")
    report.warn(WarningMessage("care", "careful"))
    assert stream.getvalue() == "warning: careful\n"
    assert [str(warning) for warning in report.warnings] == ["careful"]


def test_logs_get_a_line_now_and_then_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 20.0, 20.0, 21.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    report, stream = reporter()
    with report.progress("synthesis", 300) as advance:
        for step in (1, 2, 3):
            advance(step, "BN KL 0.5")
    assert stream.getvalue() == "  synthesis 2/300  BN KL 0.5\n"


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def seen_on_screen(monkeypatch: pytest.MonkeyPatch, **options: bool) -> tuple[Console, io.StringIO]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Screen()
    terminal = Terminal(file=stream, width=80, highlight=False, soft_wrap=True, force_terminal=True)
    return Console(terminal=terminal, **options), stream


def left_on(screen: io.StringIO) -> list[str]:
    """The lines that stay on a terminal that goes up (1A) and clears lines (2K) as it is told."""
    rows, at = [""], 0
    for part in re.split(r"(\n|\x1b\[[?\d;]*[a-zA-Z])", screen.getvalue().replace("\r", "")):
        if part == "\n":
            at += 1
            rows += [""] * (at == len(rows))
        elif part == "\x1b[1A":
            at -= 1
        elif part == "\x1b[2K":
            rows[at] = ""
        elif not part.startswith("\x1b"):
            rows[at] += part
    return [row.rstrip() for row in rows if row.strip()]


def test_a_terminal_shows_a_bar_with_the_time_left_and_one_line_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report, screen = seen_on_screen(monkeypatch)
    with report.stage("synthesis") as stage:
        with report.progress("synthesis", 20) as advance:
            assert report._line is not None
            for step in range(1, 11):
                advance(step, "BN KL 0.5")
            report._line._progress.refresh()
        stage.detail = "20 steps"
    drawn = screen.getvalue()
    assert "10/20" in drawn
    assert re.search(r"\d:\d\d left", drawn)
    assert "BN KL 0.5" in drawn
    assert "\x1b[" in drawn
    (line,) = left_on(screen)
    assert re.fullmatch(r"synthesis +\d+\.\d s  20 steps", line)


def test_a_stage_without_known_work_shows_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    report, screen = seen_on_screen(monkeypatch)
    with report.stage("capture"):
        assert report._line is not None
        report._line._progress.refresh()
    assert re.search(r"capture .*0:00", screen.getvalue())
    assert "left" not in screen.getvalue()


def test_after_the_bar_the_stage_shows_its_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    report, screen = seen_on_screen(monkeypatch)
    with report.stage("calibration"):
        with report.progress("calibration", 4) as advance:
            advance(4)
        screen.truncate(0)
        assert report._line is not None
        report._line._progress.refresh()
        assert "4/4" not in screen.getvalue()
        assert "calibration" in screen.getvalue()


def test_a_line_that_must_not_disturb_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _ = seen_on_screen(monkeypatch)
    with report.stage("benchmark", moving=False):
        assert report._line is not None
        assert not report._line._progress.live.auto_refresh
    with report.stage("capture"):
        assert report._line is not None
        assert report._line._progress.live.auto_refresh


def test_a_long_detail_goes_on_below_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    report, screen = seen_on_screen(monkeypatch)
    with report.stage("verify") as stage:
        stage.detail = "same class " * 9
    first, second = left_on(screen)
    assert first.startswith("verify ")
    assert second.startswith(" " * 24 + "same")


def test_a_failed_stage_leaves_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    report, screen = seen_on_screen(monkeypatch)
    with pytest.raises(KeyboardInterrupt), report.stage("load"), report.progress("load", 3) as advance:
        advance(1)
        raise KeyboardInterrupt
    assert left_on(screen) == []
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") > 0  # the cursor
    with report.stage("again"):
        pass
    assert len(left_on(screen)) == 1


def test_nested_stages_share_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    report, screen = seen_on_screen(monkeypatch)
    with report.stage("engine"), report.stage("inspect"), report.progress("inspect", 2) as advance:
        advance(2)
    assert [line.split()[0] for line in left_on(screen)] == ["inspect", "engine"]


def test_quiet_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    report, screen = seen_on_screen(monkeypatch, quiet=True)
    with report.stage("load"), report.progress("load", 2) as advance:
        advance(1)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_and_motion_can_be_switched_off(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, _ = seen_on_screen(monkeypatch)
    monkeypatch.setenv(name, value)
    stream = Screen()
    report = Console(terminal=Terminal(file=stream, width=80, force_terminal=True))
    report.warn(WarningMessage("care", "careful"))
    assert stream.getvalue() == "warning: careful\n"
    assert report.live is (name == "NO_COLOR")


def test_colours_that_are_forced_on_a_pipe_bring_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    report = Console(terminal=Terminal(file=stream, width=200))
    with report.stage("load"), report.progress("load", 2) as advance:
        advance(1)
    assert not report.live
    assert len(stream.getvalue().splitlines()) == 1
