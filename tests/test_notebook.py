"""The notebook of the digits example runs from top to bottom."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "digits.ipynb"
LARGEST = 200_000
"""Bytes of the stored notebook: pictures of a real run, and no more."""


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def test_the_stored_outputs_are_those_of_one_clean_run() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [cell["source"] for cell in code if not cell["outputs"]] == []
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert NOTEBOOK.stat().st_size < LARGEST


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy of the examples, where no earlier conversion lies; the conversion is that of the notebook."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    here = tmp_path / "examples"
    shutil.copytree(EXAMPLES, here, ignore=shutil.ignore_patterns("out", "__pycache__"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(here / NOTEBOOK.name, as_version=4)

    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(here)}}
    ).execute()

    report = json.loads((here / "digits" / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["accuracy"]["int8_top1"] > 95
    printed = [
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    ]
    assert f"INT8 on {report['accuracy']['int8_top1']:.1f} %" in "".join(printed)
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 4
