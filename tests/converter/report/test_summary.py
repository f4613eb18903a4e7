"""The last lines on the terminal."""

from dataclasses import replace

import pytest

from converter.report.summary import summary
from tests.converter.report.html.reports import full_report


@pytest.mark.parametrize(
    ("percent", "line"), [(12.345, "12.3 % of the multiply-adds stay in float"), (0.0, "")]
)
def test_what_stays_in_float_is_told(percent: float, line: str) -> None:
    report = full_report()
    report = replace(report, quantization=replace(report.quantization, float_macs_percent=percent))
    assert [text for text in summary(report, "").splitlines() if "multiply-adds" in text] == (
        [line] if line else []
    )
