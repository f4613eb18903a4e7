"""The page of networks that are no classifiers: no sentence speaks of classes that are not there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from converter.report.document import (
    AccuracySection,
    AgreementSection,
    CalibrationSection,
    OutputAgreement,
    Report,
)
from converter.report.html.page import page, save_page
from converter.report.html.picture import Picture
from tests.converter.report.html.reports import full_report
from tests.converter.report.html.test_page import Read

ANSWERS = Picture("data:image/png;base64,AAAA", 1564, 440)
SAMPLES = Picture("data:image/png;base64,BBBB", 684, 426)
BOXES = "same boxes (IoU 0.5)"
OF_CLASSES = re.compile(
    r"top-1|class probabilit|chooses the class|same class|labelled image|one column a class|in a logit",
    re.IGNORECASE,
)


def detector(task: str = "boxes", measure: str = BOXES) -> Report:
    """A full report of another task, on procedural images and without --val."""
    full = full_report()
    assert full.synthesis is not None
    assert full.mixed_precision is not None
    assert full.qat is not None
    outputs = [OutputAgreement("scores", 31.25, 0.9987), OutputAgreement("boxes", None, 1.0)]
    return replace(
        full,
        model=replace(full.model, task=task, classes=None, bn_layers=0, notes=[]),
        synthesis=replace(
            full.synthesis,
            source="procedural",
            label_accuracy=None,
            bn_kl=None,
            shown=[],
            history=[],
            generators=0,
        ),
        calibration=replace(full.calibration, source="procedural"),
        qat=replace(full.qat, data="procedural"),
        mixed_precision=replace(full.mixed_precision, by="agreement"),
        agreement=AgreementSection(None, 512, measure, 96.25, 0.4, outputs),
        accuracy=None,
        prediction=None,
        warnings=[],
        warning_details=[],
        artifacts={**full.artifacts, "answers.png": "out/answers.png"},
    )


def words(report: Report, answers: Picture | None = ANSWERS) -> str:
    return Read(page(report, None, answers)).words


@pytest.mark.parametrize(
    ("task", "measure"), [("boxes", BOXES), ("mask", "mIoU of INT8's masks to FP32's"), ("any", "cosine")]
)
def test_no_sentence_speaks_of_classes(task: str, measure: str) -> None:
    assert OF_CLASSES.findall(words(detector(task, measure))) == []


def test_a_classifiers_page_still_does() -> None:
    assert {found.lower() for found in OF_CLASSES.findall(words(full_report()))} >= {
        "top-1",
        "class probabilit",
        "same class",
    }


def test_a_detectors_page_says_what_was_measured() -> None:
    said = words(detector())
    assert f"Agreement with FP32 ({BOXES}) on 512 fresh samples 96.25 %" in said
    assert "Accuracy not measured: give images with their boxes with --val" in said
    assert "Output scores : signal-to-noise ratio on these samples 31.2 dB cosine 0.9987" in said
    assert "in 512 procedural images." in said
    assert (
        "on procedural images. INT8's agreement with FP32 (same boxes (IoU 0.5)) on fresh inputs is" in said
    )
    assert f"At most 0.50 points of agreement with FP32 ({BOXES}) were to be lost." in said
    assert "as measured by the agreement with FP32;" in said


def test_images_without_labels_leave_the_accuracy_open() -> None:
    seen = replace(
        detector(), accuracy=AccuracySection(20, None, "ONNX Runtime on the CPU", None, 63.16, BOXES, 4.0)
    )
    assert "give images with their boxes with --val" in words(seen)


def test_an_agreement_of_nothing_is_not_measured() -> None:
    report = replace(detector(), agreement=AgreementSection(None, 512, BOXES))
    assert f"Agreement with FP32 ({BOXES}) on 512 fresh samples not measured" in words(report)
    report = replace(report, accuracy=AccuracySection(20, None, "", None, None, BOXES))
    assert f"Agreement with FP32 ({BOXES}) on 20 images not measured" in words(report)


@pytest.mark.parametrize(
    ("batch_norms", "asked", "why"),
    [
        (0, "auto", ", as the network has no batch norm on which a generator could be trained."),
        (20, "procedural", ", as --samples asks for."),
    ],
)
def test_why_images_are_procedural_is_said(batch_norms: int, asked: str, why: str) -> None:
    report = detector()
    model = replace(report.model, bn_layers=batch_norms)
    report = replace(report, model=model, options={**report.options, "sample_source": asked})
    assert f"in the colours of the input{why}" in words(report)


@pytest.mark.parametrize("source", ["images", "procedural", "zscgan"])
def test_what_calibrated_is_named(source: str) -> None:
    report = detector()
    one = {"images": "real image", "procedural": "procedural image", "zscgan": "generated sample"}[source]
    calibration: CalibrationSection = replace(report.calibration, source=source, samples=1)
    assert f"in 1 {one}." in words(replace(report, calibration=calibration))


def test_the_first_picture_is_that_of_the_answers() -> None:
    text = page(detector(), SAMPLES, ANSWERS)
    answers, samples = Read(text).all("img")
    assert text.index(answers["src"]) < text.index("<main>") < text.index(samples["src"])
    assert answers["alt"] == (
        "Boxes of FP32 in the upper row and of INT8 in the lower one, on the same fresh samples."
    )
    assert (answers["width"], answers["height"]) == ("1564", "440")
    report = replace(
        detector("mask"), accuracy=AccuracySection(9, None, "", None, 90.0, "mIoU", 1.0, "mIoU", 61.5, 60.25)
    )
    (image,) = Read(page(report, None, ANSWERS)).all("img")
    assert image["alt"].startswith("Masks of FP32 in the upper row")
    assert image["alt"].endswith("on the same images of --val.")


def test_without_answers_the_first_picture_is_that_of_the_samples() -> None:
    text = page(full_report(), SAMPLES)
    (image,) = Read(text).all("img")
    assert text.index(image["src"]) < text.index("<main>")


def test_the_picture_of_the_answers_is_read_from_its_file(tmp_path: Path) -> None:
    Image.new("RGB", (30, 10), "red").save(tmp_path / "answers.png")
    path = save_page(detector(), tmp_path / "samples.png", tmp_path / "report.html", tmp_path / "answers.png")
    (image,) = Read(path.read_text()).all("img")
    assert (image["width"], image["height"]) == ("30", "10")
