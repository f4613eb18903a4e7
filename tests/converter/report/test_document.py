"""The report as values and as a file."""

import dataclasses
import json
import math

import pytest

from converter.report.document import SOMETIMES, plain, report_from_json
from tests.converter.report.html.reports import bare_report, full_report


@pytest.mark.parametrize("report", [full_report(), bare_report()], ids=["full", "bare"])
def test_a_report_is_read_as_it_was_written(report: object) -> None:
    assert dataclasses.is_dataclass(report)
    text = report.to_json()  # type: ignore[attr-defined]
    again = report_from_json(text)
    assert again == report
    assert again.to_json() == text


def test_what_is_only_sometimes_measured_is_left_out() -> None:
    bare, full = json.loads(bare_report().to_json()), json.loads(full_report().to_json())
    assert "divergence" in full["calibration"]
    assert "divergence" not in bare["calibration"]
    assert bare["accuracy"] is None  # a section always has its place


def test_json_has_no_word_for_nan() -> None:
    @dataclasses.dataclass
    class Figures:
        kl: float
        db: float | None = dataclasses.field(default=None, metadata=SOMETIMES)

    assert plain(Figures(math.nan)) == {"kl": None}
    assert plain({"x": (math.inf, 1.0)}) == {"x": [None, 1.0]}


@pytest.mark.parametrize(
    "change",
    [{"seed": "seven"}, {"accuracy": {"images": 3}}, {"calibration": None}, {"model": []}],
    ids=["type", "missing", "section", "list"],
)
def test_a_report_that_was_changed_is_refused(change: dict[str, object]) -> None:
    document = json.loads(full_report().to_json())
    with pytest.raises(ValueError, match=next(iter(change))):
        report_from_json(json.dumps(document | change))
