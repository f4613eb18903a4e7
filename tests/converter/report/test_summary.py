"""The last lines on the terminal."""

from dataclasses import replace

import pytest

from converter.report.document import AgreementSection, SynthesisSection
from converter.report.summary import summary
from tests.converter.report.html.reports import bare_report, full_report


@pytest.mark.parametrize(
    ("percent", "line"), [(12.345, "12.3 % of the multiply-adds stay in float"), (0.0, "")]
)
def test_what_stays_in_float_is_told(percent: float, line: str) -> None:
    report = full_report()
    report = replace(report, quantization=replace(report.quantization, float_macs_percent=percent))
    assert [text for text in summary(report, "").splitlines() if "multiply-adds" in text] == (
        [line] if line else []
    )


@pytest.mark.parametrize(
    ("measure", "line"),
    [
        ("same boxes (IoU 0.5)", "same boxes (IoU 0.5) as FP32: 97.50 % on 64 fresh samples"),
        ("cosine", "agreement with FP32 (cosine): 97.50 % on 64 fresh samples"),
    ],
)
def test_agreement_is_named_after_what_it_counts(measure: str, line: str) -> None:
    found = AgreementSection(None, 64, measure, 97.5)
    assert line in summary(replace(bare_report(), agreement=found), "").splitlines()


@pytest.mark.parametrize(("batch_norms", "why"), [(0, ": the network has no batch norm"), (3, "")])
def test_procedural_images_are_told(batch_norms: int, why: str) -> None:
    synthesis = SynthesisSection(0, 0.1, None, None, 0, 0, [], reused=False, history=[], source="procedural")
    report = bare_report()
    report = replace(report, synthesis=synthesis, model=replace(report.model, bn_layers=batch_norms))
    assert f"calibrated on procedural images{why}" in summary(report, "").splitlines()


@pytest.mark.parametrize(
    ("task", "gives"), [("boxes", "accuracy on labelled images"), ("any", "agreement on real images")]
)
def test_the_next_command_says_what_it_gives(task: str, gives: str) -> None:
    report = bare_report()
    report = replace(report, model=replace(report.model, task=task), accuracy=None)
    assert summary(report, "").endswith(f" --val DIR  ({gives})")
