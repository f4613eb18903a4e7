"""Numbers as a reader sees them. None, which is how ``report.json`` writes what is not known, becomes a dash."""

import math
import re

from markupsafe import Markup, escape

Number = int | float
"""JSON writes a whole number without a point, and it is read back as an int."""

UNKNOWN = "\N{EN DASH}"

_FLAG = re.compile(r"(?<![\w-])--[a-z0-9][a-z0-9-]*")


def number(value: Number | None) -> str:
    """Three digits that count, as ``0.00123`` or ``1,290``; powers of ten only below a ten thousandth."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.2e}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def percent(value: Number | None) -> str:
    """``91.00 %``; the space does not break."""
    return UNKNOWN if value is None else f"{value:.2f}\N{NO-BREAK SPACE}%"


def points(value: Number | None) -> str:
    """A difference of two percentages, as ``0.20 points``."""
    return UNKNOWN if value is None else f"{value:.2f} points"


def change(value: Number | None) -> str:
    """The same with its sign."""
    if value is None:
        return UNKNOWN
    sign = "" if round(value, 2) == 0 else "+" if value > 0 else "\N{MINUS SIGN}"
    return sign + points(abs(value))


def times(value: Number | None) -> str:
    """A ratio, as ``1.64`` and a multiplication sign."""
    return UNKNOWN if value is None else f"{value:.2f}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}"


def seconds(value: Number | None) -> str:
    """``73.8 s``, ``0.05 s``."""
    return UNKNOWN if value is None else f"{value:,.{1 if value >= 10 else 2}f} s"


def size(value: int | None) -> str:
    """Bytes as ``1.09 MB`` or ``36.2 kB``, both with powers of ten."""
    if value is None:
        return UNKNOWN
    return f"{number(value / 1e6)} MB" if value >= 1e6 else f"{number(value / 1e3)} kB"


def flags(text: str) -> Markup:
    """``text`` with options of the command line set as code, so that no line ends within one."""
    return Markup(_FLAG.sub(r"<code>\g<0></code>", str(escape(text))))


def capital(text: str) -> str:
    """``text`` as a sentence begins; names such as ``mIoU`` keep their letters."""
    first = text.partition(" ")[0]
    return text if first != first.lower() else text[:1].upper() + text[1:]


def words(count: int, one: str, many: str = "") -> str:
    """``1 warning``, ``2 warnings``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
