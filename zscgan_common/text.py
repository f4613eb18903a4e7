"""Text of errors and files, as it fits into a message of one line."""

import re
from collections.abc import Sequence

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without colours and full stop, or its type where it says nothing."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return shortened(lines[0].rstrip(".;:")) if lines else type(error).__name__


def shortened(text: str, longest: int = 300) -> str:
    """``text`` of a file on one line of a terminal: cut off, and escaped where it isn't printable."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:longest])
    return f"{shown}…" if len(text) > longest else shown


def cut(names: Sequence[str], most: int) -> str:
    """The first ``most`` of ``names`` for a message, ending in "…" where there are more."""
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])
