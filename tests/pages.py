"""The pages of the documentation, and the commands in them."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from converter.cli.convert import command as convert
from converter.cli.samples import command as samples
from converter.doctor.cli import command as doctor
from engines.cli.bench import bench
from engines.cli.build import build

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOK = ROOT / "examples" / "digits.ipynb"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
WITH_COMMANDS = [*PAGES, ROOT / "examples" / "digits" / "README.md", NOTEBOOK]
COMMANDS = {
    "zscgan-convert": convert,
    "zscgan-samples": samples,
    "zscgan-bench": bench,
    "zscgan-build": build,
    "zscgan-doctor": doctor,
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")


def text_of(page: Path) -> str:
    """The text of the page; of a notebook its cells in words."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return "\n".join("".join(cell["source"]) for cell in cells)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for name, body in FENCE.findall(text_of(page) + "\n") if name == language]


def lines_of(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command in the page's ``sh`` blocks."""
    for body in blocks(page, "sh"):
        yield from lines_of(body)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """The words of each command with arguments in the page's text: ``a|b`` is a, and ``...`` a file."""
    for code in CODE.findall(prose(page)):
        if code.split()[0] in {*COMMANDS, "python", "torchrun"} and len(code.split()) > 1:
            yield shlex.split(re.sub(r"(\w)\|\S+", r"\1", code).replace("...", "FILE"))
