"""The last lines on the terminal."""

from dataclasses import replace

import pytest

from converter.report.document import AgreementSection, SynthesisSection
from converter.report.summary import missed_gate, summary
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


def test_an_agreement_of_nothing_is_not_measured() -> None:
    report = replace(bare_report(), agreement=AgreementSection(None, 64, "same boxes (IoU 0.5)", None))
    line = "same boxes (IoU 0.5) as FP32: not measured, as FP32 finds nothing on 64 fresh samples"
    assert line in summary(report, "").splitlines()


@pytest.mark.parametrize(
    ("batch_norms", "asked", "why"),
    [
        (0, "auto", ": the network has no batch norm"),
        (3, "procedural", ", as --samples asks for"),
        (3, "auto", ""),  # from a cache
    ],
)
def test_procedural_images_are_told(batch_norms: int, asked: str, why: str) -> None:
    report = bare_report()
    report = replace(
        report,
        calibration=replace(report.calibration, source="procedural"),
        model=replace(report.model, bn_layers=batch_norms),
        options={**report.options, "sample_source": asked},
    )
    assert f"calibrated on procedural images{why}" in summary(report, "").splitlines()


def test_samples_that_only_fine_tune_did_not_calibrate() -> None:
    synthesis = SynthesisSection(0, 0.1, None, None, 0, 0, [], reused=False, history=[], source="procedural")
    assert "calibrated on procedural images" not in summary(replace(bare_report(), synthesis=synthesis), "")


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("classes", "accuracy on labelled images"),
        ("boxes", "agreement on real images, which need no labels; mAP where COCO's boxes are beside them"),
        ("embedding", "agreement on real images, which need no labels"),
    ],
)
def test_the_next_command_says_what_images_would_tell(task: str, what: str) -> None:
    report = bare_report()
    report = replace(report, model=replace(report.model, task=task))
    assert summary(report, "").splitlines()[-1] == f"next: {report.command} --val DIR  ({what})"


def test_a_loss_of_a_detector_is_one_of_agreement() -> None:
    full = full_report()
    assert full.mixed_precision is not None
    report = replace(
        full,
        accuracy=None,
        prediction=None,
        agreement=None,
        model=replace(full.model, task="boxes"),
        mixed_precision=replace(full.mixed_precision, by="agreement", drop=2.0),
    )
    assert missed_gate(report, 0.5).startswith("INT8 loses 2.00 points of agreement with FP32, as measured")
    report = replace(report, agreement=AgreementSection(None, 64, "same boxes (IoU 0.5)", 98.0))
    assert "2.00 points of agreement with FP32 (same boxes (IoU 0.5)), as measured" in missed_gate(
        report, 0.5
    )
