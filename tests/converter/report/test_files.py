"""One table of the output files serves the terminal and the page."""

from dataclasses import replace

from converter.report.files import FILES, file_rows
from converter.workspace import INT8_ONNX, OUTPUTS
from tests.converter.report.html.reports import full_report


def test_every_file_of_a_conversion_is_described() -> None:
    assert set(FILES) == OUTPUTS
    assert all(FILES.values())


def test_rows_come_in_the_tables_order_and_unknown_files_last() -> None:
    report = replace(full_report(), artifacts={"new.txt": "out/new.txt", **full_report().artifacts})
    *known, last = file_rows(report)
    assert known == [(name, what) for name, what in FILES.items() if name in report.artifacts]
    assert INT8_ONNX in dict(known)
    assert last == ("new.txt", "")
