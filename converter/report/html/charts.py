"""Charts as SVG, drawn here so that they are there without a script.

Widths are percentages of the room that the page has, heights and letters are pixels: a chart fits a phone and its
words keep their size. Every mark says in words what it shows (``aria-label``); ``script.js`` shows the same words
as a tooltip and moves between the marks by the arrow keys, so that a chart is one stop of the tab key.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from markupsafe import Markup

from converter.report.html.formats import Number, number

ROW = 22
"""Pixels from one bar to the next."""
PART = 10
"""Bars in one picture: a printed page ends between pictures, and a network has hundreds of layers."""
ON_PAPER = 2 * PART
"""Bars of a chart and rows of a table that are printed, as style.css has it; the others would fill pages."""
NAMES, BARS, VALUES = 38, 44, 16
"""Percent of the width: the names, the room between them and the values with the bars in it, the values."""
LONGEST_NAME = 28
"""Letters of a name that fit beside the bars of a chart of half the page's width."""
TOP, PLOT, BOTTOM = 10, 170, 24
"""Heights of a line chart in pixels."""
LEFT = 13
"""Percent of its width for the figures at the axis."""
MARKS = 48
"""Points of a line that can be pointed at; more would be thinner than a finger or a cursor can tell apart."""
MOST_TICKS = 5


@dataclass(frozen=True)
class Bar:
    """One row: ``name``, a bar as long as ``value`` (None is not known), ``text`` at its end, ``tip`` about it.

    ``keys`` are what it is sorted by, one for each ``Order`` of the chart. ``marked`` bars stand out.
    """

    name: str
    value: Number | None
    text: str
    tip: str
    keys: tuple[Number | str | None, ...] = ()
    marked: bool = False


@dataclass(frozen=True)
class Order:
    """A way to sort bars, as the reader is offered it."""

    name: str
    descending: bool = False


def bars(title: str, rows: Sequence[Bar], orders: Sequence[Order] = ()) -> Markup:
    """Horizontal bars from zero, in the order given; a choice of ``orders`` where there are any."""
    largest = max((row.value for row in rows if row.value is not None), default=0.0) or 1.0
    parts = Markup("").join(_part(rows, start, largest) for start in range(0, len(rows), PART))
    return Markup(
        '<figure class="chart"><figcaption>{}{}</figcaption>'
        '<div class="rows" role="list" aria-label="{}">{}</div>{}</figure>'
    ).format(title, _choice(title, orders), title, parts, on_paper(len(rows), "bars"))


def on_paper(count: int, what: str) -> Markup:
    """The line below what is printed in part alone; nothing for what is printed whole."""
    if count <= ON_PAPER:
        return Markup("")
    line = '<p class="on-paper">The first {} of {} {} are printed; the page in a browser and report.json have all.</p>'
    return Markup(line).format(ON_PAPER, count, what)


def _part(rows: Sequence[Bar], start: int, largest: float) -> Markup:
    """The bars from ``start`` on, ``PART`` of them."""
    shown = rows[start : start + PART]
    drawn = Markup("").join(_bar(start, place, row, largest) for place, row in enumerate(shown))
    return Markup('<svg class="bars" role="presentation" width="100%" height="{}">{}</svg>').format(
        ROW * len(shown), drawn
    )


def _bar(start: int, place: int, row: Bar, largest: float) -> Markup:
    length = BARS * max(0.0, row.value or 0.0) / largest
    return Markup(
        '<g class="mark{}" role="listitem" tabindex="{}" transform="translate(0 {})" aria-label="{}" data-keys="{}">'
        '<rect class="hit" width="100%" height="{}"/>'
        '<svg width="{}%" height="{}"><text y="15">{}</text></svg>'
        '<rect class="bar" x="{}%" y="6" width="{}%" height="10"/>'
        '<text x="100%" y="15" text-anchor="end">{}</text></g>'
    ).format(
        " marked" if row.marked else "",
        _tabindex(start + place),
        place * ROW,
        row.tip,
        json.dumps(row.keys),
        ROW,
        NAMES - 2,
        ROW,
        _end_of(row.name),
        NAMES,
        f"{length:.2f}",
        row.text,
    )


def _end_of(name: str) -> str:
    """A long name without its beginning, in which the names of a network's layers are alike; the mark says it whole."""
    return name if len(name) <= LONGEST_NAME else "\N{HORIZONTAL ELLIPSIS}" + name[1 - LONGEST_NAME :]


def _tabindex(place: int) -> int:
    """The first mark is reached by the tab key, the others from there."""
    return 0 if place == 0 else -1


def _choice(title: str, orders: Sequence[Order]) -> Markup:
    if not orders:
        return Markup("")
    options = Markup("").join(
        Markup("<option{}>{}</option>").format(
            Markup(" data-descending") if order.descending else "", order.name
        )
        for order in orders
    )
    return Markup(
        '<label class="control" hidden>Order <select aria-label="Order of: {}">{}</select></label>'
    ).format(title, options)


def line(title: str, points: Sequence[tuple[Number, Number]], x_name: str, *, log: bool = False) -> Markup:
    """A line through ``points``, which come in the order of x; ``log`` draws y logarithmically where all are > 0."""
    scale = _Scale.over([y for _, y in points], log)
    first, last = points[0][0], points[-1][0]
    places = [((x - first) / ((last - first) or 1.0), scale.place(y)) for x, y in points]
    path = " ".join(f"{1000 * x:.1f},{100 * (1 - y):.2f}" for x, y in places)
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>'
        '<svg class="line" role="list" aria-label="{}" width="100%" height="{}">{}'
        '<svg x="{}%" y="{}" width="{}%" height="{}" viewBox="0 0 1000 100" preserveAspectRatio="none"'
        ' aria-hidden="true"><polyline points="{}"/></svg>{}</svg></figure>'
    ).format(
        title,
        title,
        TOP + PLOT + BOTTOM,
        _axes(scale, x_name, first, last),
        LEFT,
        TOP,
        100 - LEFT,
        PLOT,
        path,
        _marks(points, places, x_name),
    )


def _axes(scale: "_Scale", x_name: str, first: Number, last: Number) -> Markup:
    ticks = Markup("").join(
        Markup('<line x1="{0}%" x2="100%" y1="{1:.1f}" y2="{1:.1f}"/><text y="{2:.1f}">{3:g}</text>').format(
            LEFT, _y(scale.place(tick)), _y(scale.place(tick)) + 4, tick
        )
        for tick in scale.ticks
    )
    ends = Markup(
        '<text x="{0}%" y="{1}">{2} {3:g}</text><text x="100%" y="{1}" text-anchor="end">{2} {4:g}</text>'
    ).format(LEFT, TOP + PLOT + BOTTOM - 5, x_name, first, last)
    return Markup('<g class="axes" aria-hidden="true">{}{}</g>').format(ticks, ends)


def _marks(
    points: Sequence[tuple[Number, Number]], places: Sequence[tuple[Number, Number]], x_name: str
) -> Markup:
    """Bands over the whole height, each about its one point."""
    shown = range(0, len(points), -(-len(points) // MARKS))
    width = (100 - LEFT) / len(shown)
    return Markup("").join(
        Markup(
            '<g class="mark" role="listitem" tabindex="{}" aria-label="{} {:g}: {}">'
            '<rect class="hit" x="{}%" width="{}%" height="{}"/><circle cx="{}%" cy="{}" r="4"/></g>'
        ).format(
            _tabindex(band),
            x_name,
            points[index][0],
            number(points[index][1]),
            f"{LEFT + band * width:.2f}",
            f"{width:.2f}",
            TOP + PLOT,
            f"{LEFT + (100 - LEFT) * places[index][0]:.2f}",
            f"{_y(places[index][1]):.1f}",
        )
        for band, index in enumerate(shown)
    )


def _y(place: Number) -> float:
    """Pixels from the top."""
    return TOP + PLOT * (1 - place)


@dataclass(frozen=True)
class _Scale:
    """The y axis: from ``low`` to ``high``, logarithmic or not."""

    low: Number
    high: Number
    log: bool

    @classmethod
    def over(cls, values: Sequence[Number], log: bool) -> "_Scale":
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if log and low > 0 else (low - 1, high + 1)
        return cls(low, high, log and low > 0)

    def place(self, value: Number) -> float:
        """0 at the bottom, 1 at the top."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Round values within, at most ``MOST_TICKS``: 1, 2 and 5 times powers of ten, or steps of that size."""
        ticks = self._of_powers(1, 2, 5) if self.log else []
        if len(ticks) > MOST_TICKS:
            ticks = self._of_powers(1)
        if len(ticks) > 1:
            return ticks[:: -(-len(ticks) // MOST_TICKS)]
        smallest = math.floor(math.log10((self.high - self.low) / MOST_TICKS))
        steps = (factor * 10.0**power for power in count(smallest) for factor in (1, 2, 5))
        step = next(s for s in steps if math.floor(self.high / s) - math.ceil(self.low / s) < MOST_TICKS)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def _of_powers(self, *factors: int) -> list[float]:
        """Multiples of the powers of ten within."""
        exponents = range(math.floor(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        found = (factor * 10.0**exponent for exponent in exponents for factor in factors)
        return [tick for tick in found if self.low <= tick <= self.high]
