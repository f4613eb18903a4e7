"""The page as text: what stands in it, what is left out, and that it is sound HTML."""

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from jinja2 import UndefinedError
from PIL import Image

from converter import pipeline
from converter.pipeline import write_page
from converter.report.document import Report, plain
from converter.report.files import file_rows
from converter.report.html.__main__ import command
from converter.report.html.page import page, save_page
from converter.report.html.picture import Picture
from converter.workspace import Workspace
from tests.converter.jobs import job_of
from tests.converter.report.html.reports import HOSTILE, bare_report, full_report
from tests.converter.report.html.reports import report as report_of

PICTURE = Picture("data:image/png;base64,AAAA", 684, 426)
VOID = frozenset({"br", "img", "input", "link", "meta"})
OPTIONAL = (
    "synthesis",
    "engine",
    "agreement",
    "accuracy",
    "qat",
    "sensitivity",
    "mixed_precision",
    "prediction",
)
ALL_SECTIONS = [
    "comparison", "warnings", "samples", "ranges", "tuning", "layers", "mixed", "quantizers", "engine", "time",
    "reproduce",
]  # fmt: skip


class Read(HTMLParser):
    """Elements as (tag, attributes) in their order, and the text; a tag that is not closed in turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.code: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in {"script", "style"}:
            self.code[self._open[-1]] = data
        elif "pre" not in self._open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def sections(text: str) -> list[str]:
    return [attributes["id"] for attributes in Read(text).all("section")]


def test_a_full_report_has_every_section() -> None:
    assert sections(page(full_report(), PICTURE)) == ALL_SECTIONS


def test_sections_without_content_are_left_out_and_what_is_missing_is_said() -> None:
    text = page(bare_report())
    assert sections(text) == ["comparison", "ranges", "reproduce"]
    words = Read(text).words
    assert "not measured: give labelled images with --val" in words
    assert "No throughput was measured." in words
    assert "read from a cache" in words


@pytest.mark.parametrize("field", OPTIONAL)
def test_any_part_may_be_absent(field: str) -> None:
    report = dataclasses.replace(full_report(), **{field: None})
    gone = {"synthesis": "samples", "qat": "tuning", "sensitivity": "layers", "mixed_precision": "mixed"}
    left_out = {gone.get(field, field)} & set(ALL_SECTIONS)
    assert sections(page(report, PICTURE)) == [name for name in ALL_SECTIONS if name not in left_out]


@pytest.mark.parametrize(
    "report", [full_report(), bare_report(), full_report(150)], ids=["full", "bare", "large"]
)
def test_it_is_sound_html(report: Report) -> None:
    text = page(report, PICTURE)
    read = Read(text)
    assert text.startswith('<!doctype html>\n<html lang="en">')
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in read.all("a")} <= set(ids)
    assert {a["aria-labelledby"] for a in read.all("section")} <= set(ids)
    assert all(a["alt"] for a in read.all("img"))
    assert len(read.all("caption")) == len(read.all("table"))
    assert all(a["scope"] in {"row", "col"} for a in read.all("th"))
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_it_is_one_file() -> None:
    read = Read(page(full_report(), PICTURE))
    sources = [
        a[key] for _, a in read.elements for key in ("src", "href", "srcset", "action", "data") if key in a
    ]
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\(|https?:", read.code["style"] + read.code["script"])


def test_only_our_own_script_and_style_may_run() -> None:
    read = Read(page(full_report(), PICTURE))
    (policy,) = (a["content"] for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(read.code[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") or name == "style" for _, a in read.elements for name in a)


def renamed(value: Any) -> Any:
    """Every text of a report with something hostile behind it; what says which case it is stays."""
    if isinstance(value, dict):
        cases = {
            "kind", "data", "kept", "by", "source", "engine", "precision", "channel_order", "normalisation_from",
        }  # fmt: skip
        return {k: v if k in cases and isinstance(v, str) else renamed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(entry) for entry in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_whatever_a_report_says_is_text() -> None:
    fields = renamed(plain(full_report()))
    fields["calibration"]["ranges"] = {HOSTILE: 1.0}
    fields["artifacts"][HOSTILE] = HOSTILE
    hostile, usual = Read(page(report_of(**fields), PICTURE)), Read(page(full_report(), PICTURE))
    assert len(hostile.all("img")) == 1
    assert len(hostile.all("script")) == 1
    assert {tag for tag, _ in hostile.elements} == {tag for tag, _ in usual.elements}
    assert {name for _, a in hostile.elements for name in a} == {
        name for _, a in usual.elements for name in a
    }
    assert HOSTILE in hostile.words


def test_the_device_is_listed_field_by_field() -> None:
    text = page(full_report(), PICTURE)
    assert "DeviceSection" not in text
    assert '<th scope="row">gpu</th><td>NVIDIA L4</td>' in text


def test_the_files_are_described_as_on_the_terminal() -> None:
    words = Read(page(full_report())).words
    assert [what for _, what in file_rows(full_report()) if what not in words] == []


def test_the_same_report_gives_the_same_page() -> None:
    assert page(full_report(), PICTURE) == page(full_report(), PICTURE)


def leaves(value: Any) -> Iterator[float]:
    """All numbers of a report, those in its texts as well."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from leaves(entry)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def derived(report: Report) -> Iterator[float]:
    """What the page works out: a difference, ratios to FP32, sizes in MB and kB."""
    assert report.accuracy is not None
    assert report.accuracy.fp32 is not None
    assert report.accuracy.int8 is not None
    yield report.accuracy.int8 - report.accuracy.fp32
    for start in (0, 3):
        group = [entry.images_per_s for entry in report.throughput[start : start + 3]]
        yield from (speed / group[0] for speed in group)
    sizes = report.artifact_bytes
    yield sizes["model.fp32.onnx"] / sizes["model.int8.onnx"]
    for size in sizes.values():
        yield from (size / 1e6, size / 1e3)


def test_every_figure_is_the_reports() -> None:
    report = full_report()
    known = np.abs([*leaves(dataclasses.asdict(report)), *derived(report)])
    shown = re.sub(r'<g class="axes".*?</g>', "", page(report, PICTURE), flags=re.DOTALL)
    words = re.sub(r"\d+\.\d+\.\d+", "version", Read(shown).words)
    figures = re.findall(r"(\d[\d,]*\.(\d+))(e-\d+)?", words)
    assert len(figures) > 150
    for digits, decimals, power in figures:
        value, step = (
            float(digits.replace(",", "") + power),
            float(f"1e-{len(decimals)}") * float("1" + power),
        )
        assert np.abs(known - value).min() <= step * 0.5001, digits


@pytest.mark.slow
def test_a_large_report_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1388, 2284, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((2284 // 4, 1388 // 4)).resize((2284, 1388))
    smooth.save(tmp_path / "samples.png", compress_level=1)
    assert (tmp_path / "samples.png").stat().st_size > 3e6
    path = save_page(full_report(150), tmp_path / "samples.png", tmp_path / "report.html")
    assert path.stat().st_size < 3e6
    (image,) = Read(path.read_text()).all("img")
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert (image["width"], image["height"]) == ("1600", "972")


def test_a_small_picture_is_kept_as_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "samples.png")
    path = save_page(full_report(), tmp_path / "samples.png", tmp_path / "report.html")
    (image,) = Read(path.read_text()).all("img")
    content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
    assert content == (tmp_path / "samples.png").read_bytes()


def test_the_picture_is_described_by_its_classes() -> None:
    (image,) = Read(page(full_report(), PICTURE)).all("img")
    assert image["alt"] == "Grid of generated samples, one column a class: tabby cat, volcano."
    report = full_report()
    assert report.synthesis is not None
    shown: list[dict[str, int | str | None]] = [{"class": 3, "name": None}, {"class": 281, "name": None}]
    unnamed = dataclasses.replace(report.synthesis, shown=shown)
    (image,) = Read(page(dataclasses.replace(report, synthesis=unnamed), PICTURE)).all("img")
    assert image["alt"] == "Grid of generated samples, one column a class: class 3, class 281."
    guided = dataclasses.replace(report.synthesis, guide_steps=3)
    text = page(dataclasses.replace(report, synthesis=guided), PICTURE)
    (image,) = Read(text).all("img")
    assert image["alt"] == "Grid of generated samples: tabby cat, volcano."
    assert "Generated samples. Row by row: tabby cat, volcano." in text
    assert "toward a class near it, in at most 3 gradient steps" in text


def test_procedural_images_among_the_samples_are_told() -> None:
    report = full_report()
    assert report.synthesis is not None
    assert "by the mse calibrator in 512 generated samples." in page(report, PICTURE)
    mixed = dataclasses.replace(report, synthesis=dataclasses.replace(report.synthesis, procedural=256))
    text = page(mixed, PICTURE)
    assert "by the mse calibrator in 256 generated samples and 256 procedural images." in text
    assert "Of the inputs that calibrate, 256 are procedural images" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {},
            "2 generators were trained against the network alone, in 250 steps and 269.3 s, one after the other.",
        ),
        ({"generators": 1}, "1 generator was trained against the network alone, in 250 steps and 269.3 s."),
        ({"reused": True}, "2 generators were trained by an earlier run, in 250 steps, one after the other."),
    ],
)
def test_how_the_samples_were_made(given: dict[str, Any], words: str) -> None:
    report = full_report()
    assert report.synthesis is not None
    made = dataclasses.replace(report.synthesis, **given)
    assert words in Read(page(dataclasses.replace(report, synthesis=made), PICTURE)).words


def test_a_page_is_made_anew_from_the_files(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(full_report().to_json())
    Image.new("RGB", (20, 10), "red").save(tmp_path / "samples.png")
    result = CliRunner().invoke(command, [str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    again = save_page(full_report(), tmp_path / "samples.png", tmp_path / "again.html")
    assert (tmp_path / "report.html").read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "report.json of zscgan-convert"),
        ("[]", "report.json of zscgan-convert"),
        ('{"schema": 1}', "report.json of zscgan-convert"),
        (json.dumps({**json.loads(bare_report().to_json()), "schema": 2}), "schema 1, got 2"),
    ],
    ids=["broken", "list", "empty", "newer"],
)
def test_other_files_are_refused(content: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    result = CliRunner().invoke(command, [str(tmp_path / "report.json")])
    assert result.exit_code == 1
    assert word in result.output
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_made_costs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise UndefinedError("no known_error")

    monkeypatch.setattr(pipeline, "save_page", broken)
    report = dataclasses.replace(full_report(), artifacts={"report.html": "out/report.html"})
    with Workspace(tmp_path / "out") as workspace:
        report = write_page(job_of(workspace=workspace), report)
        assert workspace.files() == []
    assert "report.html" not in report.artifacts
    assert "known_error" in report.warnings[-1]
    assert [warning.code for warning in report.warning_details] == ["no-page"]
    assert "report.html could not be made" in capsys.readouterr().err
