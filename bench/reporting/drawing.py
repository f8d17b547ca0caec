"""Common to all figures: colours, style, names, files.

Okabe and Ito's colour-blind-safe palette, with markers and line styles for greyscale print.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.reporting.leaderboard import Table
from bench.reporting.render import count

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FILLS = ("full", "none", "left", "top")
LINES = ("-", "--", "-.", ":")
GREY = "#B8B8B8"
NAMED = 8
"""Maximum number of points that are all named in the figure; of more, those on the Pareto front are."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "text.parse_math": False,  # a class may be called $a_$
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "convbench",
}


class Look(NamedTuple):
    """How a row is drawn: colour, marker and its fill, line style."""

    color: str
    marker: str
    fill: str
    line: str


def looks(models: Sequence[str]) -> list[Look]:
    """The looks of rows of these networks: up to 32 curves, and more markers, differ.

    A network has one colour and marker, with batch norm the same as without; its rows differ in fill and line style.
    Where there are more networks than colours, or more rows of one than fills, colours go by row instead.
    """
    families: Sequence[Hashable] = [model.removesuffix("_bn") for model in models]
    if len(set(families)) > len(COLORS) or max(Counter(families).values(), default=0) > len(FILLS):
        families = range(len(models))
    order, before, made = list(dict.fromkeys(families)), Counter[Hashable](), []
    for family in families:
        i, k = order.index(family), before[family]
        before[family] += 1
        shift = i + i // len(COLORS)
        color, marker = COLORS[i % len(COLORS)], MARKERS[shift % len(MARKERS)]
        made.append(Look(color, marker, FILLS[k], LINES[(shift + k) % len(LINES)]))
    return made


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as ``svg`` or ``png``, without a date."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(content, format=kind, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
    return content.getvalue()


def plain_log(axis: XAxis | YAxis) -> None:
    """Ticks of a logarithmic axis whose limits are set: 1, 10, 100, 1k, on short axes also multiples of those."""
    low, high = axis.get_view_interval()
    reach = high / low
    subs = (1.0,) if reach > 300 else (1.0, 2.0, 5.0) if reach > 10 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value) if value >= 1000 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def grid(table: Table, count: int, side: float, note: str = "") -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` square panels, one a row; ``note`` is appended to the title."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(side * columns, side * rows + 0.3), layout="compressed")
    some = f", {count} of {len(table.rows)} rows" if count < len(table.rows) else ""
    figure.suptitle(f"{table.title}{some}{note}", fontsize=10)
    panels = list(np.atleast_1d(figure.subplots(rows, columns)).flatten())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]
