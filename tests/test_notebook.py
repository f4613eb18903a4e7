"""The notebook of the digits example runs from top to bottom."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "digits.ipynb"
LARGEST = 200_000
"""Bytes of the stored notebook: pictures of a real run, and no more."""
OF_ONE_MACHINE = re.compile(r"\x1b|(?<!\S)/\w|\bWARNING\b|Warning:")
"""Colours, absolute paths, warnings of an environment."""


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def printed(found: list[dict[str, Any]]) -> str:
    """All that the cells print."""
    outputs = (output for cell in found for output in cell.get("outputs", []))
    return "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")


def form(text: str) -> tuple[list[str], list[str], set[str]]:
    """What a conversion prints whatever its figures are: stages, labels of results, files with their descriptions."""
    stages = re.findall(r"^(\w+) +\d+\.\d s  ", text, re.MULTILINE)
    result = text.partition("\nPASSED in ")[2]
    labels = re.findall(r"^  ([\w-]+)  ", result, re.MULTILINE)
    return stages, labels, set(re.findall(r"^  \w+\.[\w.]+  +.*", result, re.MULTILINE))


def test_the_stored_outputs_are_those_of_one_clean_run() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [cell["source"] for cell in code if not cell["outputs"]] == []
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert NOTEBOOK.stat().st_size < LARGEST
    assert OF_ONE_MACHINE.findall(printed(code)) == []


def test_what_one_machine_says_is_noticed() -> None:
    home = "/".join(("", "home", "me"))
    for text in ("\x1b[33mx", f"in {home}/out", "WARNING | x", "FutureWarning: x"):
        assert OF_ONE_MACHINE.search(text)


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
    text = printed(notebook.cells)
    assert f"INT8 on {report['accuracy']['int8_top1']:.1f} %" in text
    assert form(text) == form(printed(cells()))
    assert all(form(text))
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 4
