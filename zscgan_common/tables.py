"""Tables as plain text, by rich: aligned columns without lines around them, which read well in a pipe too."""

import io
import shutil
from collections.abc import Iterable
from itertools import zip_longest

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

NARROW = 80


def terminal_width(at_most: int) -> int:
    """The columns of the terminal, from ``NARROW`` to ``at_most``; ``NARROW`` in a pipe."""
    return min(max(shutil.get_terminal_size((NARROW, 24)).columns, NARROW), at_most)


def table(*columns: Column) -> Table:
    """An empty table with these columns; see ``words`` and ``figures``."""
    return Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))


def words(heading: str, width: int = 0) -> Column:
    """A column of text at least ``width`` wide. What is too long for the page goes on in the next line."""
    return Column(heading, min_width=width or None, overflow="fold")


def figures(heading: str) -> Column:
    """A column of numbers, which are never cut."""
    return Column(heading, justify="right", no_wrap=True)


def grid(rows: Iterable[tuple[str, ...]]) -> Table:
    """Rows without headings whose last cell wraps."""
    rows = list(rows)
    body = Table.grid(padding=(0, 2, 0, 0))
    for cells in zip_longest(*rows, fillvalue=""):
        body.add_column(min_width=max(map(len, cells)) if cells is not rows else None, overflow="fold")
    for row in rows:
        body.add_row(*row)
    return body


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
