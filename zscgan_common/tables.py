"""Tables as plain text, by rich: aligned columns without lines around them, which read well in a pipe too."""

import io
import shutil
import sys
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

NARROW = 80
UNBOUNDED = 10_000
"""Columns of a page on which nothing has to wrap."""


def terminal_width(at_most: int = sys.maxsize) -> int:
    """The columns of the terminal, from ``NARROW`` to ``at_most``; ``NARROW`` in a pipe."""
    return min(max(shutil.get_terminal_size((NARROW, 24)).columns, NARROW), at_most)


def columns(*headings: Column, gap: int = 2) -> Table:
    """An empty table with these columns, ``gap`` apart; see ``words`` and ``figures``."""
    return Table(*headings, box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))


def words(heading: str, width: int = 0) -> Column:
    """A column of text at least ``width`` wide. What is too long for the page goes on in the next line."""
    return Column(heading, min_width=width or None, overflow="fold")


def figures(heading: str) -> Column:
    """A column of numbers, which are never cut."""
    return Column(heading, justify="right", no_wrap=True)


def labelled(rows: Iterable[tuple[RenderableType, RenderableType]]) -> Table:
    """Rows of a label and a text, which wraps beside it."""
    body = columns(Column(no_wrap=True), Column(overflow="fold"))
    body.show_header = False
    for label, text in rows:
        body.add_row(label, text)
    return body


def indented(text: str, by: int) -> Padding:
    """A text that wraps ``by`` columns from the left."""
    return Padding(Text(text, overflow="fold"), (0, 0, 0, by))


def text_from(*parts: RenderableType, width: int = NARROW, styled: bool = False) -> str:
    """``parts`` below one another in at most ``width`` columns; with colours only where ``styled``."""
    page = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=styled,
        color_system="standard" if styled else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with page.capture() as captured:
        for part in parts:
            page.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
