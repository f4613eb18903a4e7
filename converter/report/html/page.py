"""``report.html``: one file that needs nothing else, made from the report and its pictures."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from converter.report.document import Report, plain, report_from_json
from converter.report.files import file_rows
from converter.report.html import charts, figures, findings, first_screen, formats
from converter.report.html.picture import Picture, picture_from_file
from engines.options import ENGINE_TITLES
from zscgan_common.files import write_atomic


@dataclass(frozen=True)
class Section:
    """One part of the page, from the template ``name.html.j2``, where the report has what it ``needs``."""

    name: str
    title: str
    needs: Callable[[Report], object]


SECTIONS = (
    Section("comparison", "FP32 against INT8", lambda _: True),
    Section("warnings", "Warnings", lambda report: report.warning_details),
    Section("samples", "Samples", lambda report: report.synthesis),
    Section("ranges", "Ranges", lambda report: report.calibration.ranges),
    Section("tuning", "Fine-tuning", lambda report: report.qat),
    Section("layers", "What each layer costs", lambda report: report.sensitivity),
    Section("mixed", "Layers kept in float", lambda report: report.mixed_precision),
    Section("quantizers", "Q/DQ pairs", lambda report: report.quantization.edges),
    Section("engine", "TensorRT's layers", lambda report: report.engine),
    Section("time", "Time", lambda report: report.stages),
    Section("reproduce", "To reproduce", lambda _: True),
)


def save_page(report: Report, samples: Path, path: Path, answers: Path | None = None) -> Path:
    """Write ``report.html``. ``samples`` and ``answers`` are pictures; there need not be any."""
    found = (
        picture_from_file(file) if file is not None and file.is_file() else None
        for file in (samples, answers)
    )
    return write_atomic(path, page(report, *found))


def page(report: Report, picture: Picture | None = None, answers: Picture | None = None) -> str:
    """The report as HTML, with ``picture`` of the samples and that of ``answers``; the same report, the same text."""
    report = report_from_json(report.to_json())  # numbers that JSON has no word for become None here as well
    shown = [section for section in SECTIONS if section.needs(report)]
    template = environment().get_template("page.html.j2")
    return template.render(report=report, picture=picture, answers=answers, sections=shown)


def environment() -> Environment:
    """Jinja2 with all that the templates use. It escapes what a report says: the names in it are anyone's."""
    made = Environment(
        loader=PackageLoader("converter.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in (
        "capital",
        "change",
        "flags",
        "number",
        "percent",
        "points",
        "seconds",
        "size",
        "times",
        "words",
    ):
        made.filters[name] = getattr(formats, name)
    made.filters["plain"] = plain
    made.globals |= {
        "engine_names": ENGINE_TITLES,
        "figures": figures,
        "file_rows": file_rows,
        "findings": findings,
        "first": first_screen,
        "on_paper": charts.on_paper,
        "script": _source(made, "script.js"),
        "style": _source(made, "style.css"),
        "sha256": _sha256,
    }
    return made


def _source(made: Environment, name: str) -> Markup:
    """The text of one of our own files."""
    assert made.loader is not None
    return Markup(made.loader.get_source(made, name)[0])


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names the one script and the one style that may run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
