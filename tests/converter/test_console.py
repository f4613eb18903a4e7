import io

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
