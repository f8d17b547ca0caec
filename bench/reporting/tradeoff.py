"""The figure of accuracy against cost, with the Pareto front; needs matplotlib."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.reporting.drawing import GREY, NAMED, Look, looks, plain_log
from bench.reporting.leaderboard import Row, Table

AROUND = (
    *((6, 0, "left"), (-6, 0, "right"), (0, 9, "center"), (0, -9, "center"), (6, 8, "left"), (6, -8, "left")),
    *((-6, 8, "right"), (-6, -8, "right"), (0, 18, "center"), (0, -18, "center"), (6, 16, "left"), (-6, 16, "right")),
    *((6, -16, "left"), (-6, -16, "right"), (0, 28, "center"), (0, -28, "center"), (-6, 28, "right")),
)
"""Candidate positions of a label beside its point: points (1/72 inch) right and up, and its alignment."""
NEAR = 10
"""Points up or down within which a label is seen to be its point's."""
NEARER = 1.5
"""A label could be another point's if its distance to that is less than so many times that to its own."""
LABELLED = 12
"""Maximum number of points of a front that have labels; of more, the best rows'."""
KEYED = 32
"""Maximum number of rows that the legend names; so many looks differ."""
OTHER = Look(GREY, ".", "full", "-")
"""Of the rows beyond these."""
LINE = 0.16
"""Height of a line of the legend, in inches."""
LEADER = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
"""From a label to its point, where it is farther than NEAR or could be another's."""
BEHIND = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
"""Background of a label, so that it is readable on top of a line."""
LABEL: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7, "bbox": BEHIND}
COSTS = {
    "params": ("parameters", 1.0, "log"),
    "macs": ("multiply-accumulates per image", 1.0, "log"),
    "fit_seconds": ("training time in s", 1.0, "log"),
    "peak_memory_bytes": ("peak memory in MiB", 2.0**-20, "linear"),
}
"""Fields of records, each with its label, factor and scale."""
MEASURED = ("fit_seconds", "peak_memory_bytes")
"""Those that depend on the machine."""
FRONTS = ("-", "--", ":")
"""Line styles of the machines' fronts."""


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (cost, accuracy) pairs that no other beats in one without being worse in the other, by cost; the
    first of equal ones.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def cost_of(row: Row, name: str) -> float | None:
    """One of COSTS in its unit; None if unknown."""
    value = row.stats[name].mean if name in row.stats else getattr(row, name, None)
    return value and value * COSTS[name][1]


def cost(table: Table) -> Figure | None:
    """Test top-1, with its interval or else the deviation over seeds, against each of COSTS, and the Pareto front; one
    per machine against those that are MEASURED, without rows from several.
    """
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(table.title, fontsize=10)
    panels = figure.subplots(2, 2, sharey=True)
    few, handles = len(table.rows) <= NAMED, {}
    apart = bool(table.machine)  # else nothing is known of machines
    look = [*looks([row.model for row in table.rows[:KEYED]]), *[OTHER] * (len(table.rows) - KEYED)]
    labels = []  # of each panel; placed when the panels have their final size
    for panel, (name, (label, _, scale)) in zip(panels.flatten(), COSTS.items(), strict=True):
        panel.set(xscale=scale, xlabel=label)
        points = {
            place: (value, 100 * row.stats["test_top1"].mean)
            for place, row in enumerate(table.rows)
            if (value := cost_of(row, name)) and "test_top1" in row.stats
        }
        if not points:
            panel.set_axis_off()
            continue
        panel.set_xlim(around([x for x, _ in points.values()], scale))
        if scale == "log":
            plain_log(panel.xaxis)
        alike: dict[str | None, list[int]] = defaultdict(list)
        for place in points:
            machine = table.rows[place].machine if apart and name in MEASURED else None
            if machine != "":
                alike[machine].append(place)
        fronts = [[places[i] for i in pareto([points[place] for place in places])] for places in alike.values()]
        for number, front in enumerate(fronts):
            steps = zip(*(points[place] for place in front), strict=True)
            panel.step(*steps, where="post", color=GREY, linestyle=FRONTS[number % len(FRONTS)], zorder=1)
        if sum(map(len, alike.values())) < len(points) or len(fronts) > 1:
            panel.set_xlabel(f"{label}, a front per machine")
        bars = []
        for place, (x, y) in points.items():
            below, above = spread(table.rows[place])
            bars.append((x, y, y - below, y + above))
            handles[place] = panel.errorbar(
                x,
                y,
                yerr=[[below], [above]],
                color=look[place].color,
                marker=look[place].marker,
                fillstyle=look[place].fill,
                markerfacecoloralt="white",
                linestyle="none",
                markersize=5,
                capsize=2,
                elinewidth=0.8,
            )
        panel.margins(y=0.15)
        named = list(points) if few else sorted(chain.from_iterable(fronts))[:LABELLED]
        labels.append((panel, bars, {table.rows[place].name: points[place] for place in named}))
    if not handles:
        return None
    for panel in panels[:, 0]:
        panel.set_ylabel("test top-1 in %")
    note = meaning([table.rows[place] for place in handles])
    if few:
        figure.supxlabel(note, fontsize=7)
    else:
        keyed = [place for place in sorted(handles) if place < KEYED]
        names = [table.rows[place].name for place in keyed]
        if len(handles) > len(keyed):
            keyed.append(max(handles))
            names.append(f"the other {len(handles) - len(names)}")
        columns = 4 if max(map(len, names)) < 24 else 1
        figure.set_figheight(6 + LINE * max(0, math.ceil(len(names) / columns) - 5))
        figure.legend(
            [handles[place] for place in keyed], names, title=note or None, loc="outside lower center", ncols=columns,
            frameon=False, fontsize=7, title_fontsize=7,
        )  # fmt: skip
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for told in labels:
        place_labels(*told)
    return figure


def meaning(rows: Sequence[Row]) -> str:
    """A line about the error bars of these rows; empty if there are none."""
    intervals = [row for row in rows if row.interval is not None]
    spread_over_seeds = [row for row in rows if row.interval is None and row.n > 1]
    told = []
    if intervals:
        alone = any(row.n == 1 for row in intervals)
        told.append("95 % intervals" + "; with n = 1 of the test images alone, not of seeds" * alone)
    if spread_over_seeds:
        told.append(f"standard deviations over seeds{' where there are no predictions' * bool(intervals)}")
    return f"bars: {'; '.join(told)}" if told else ""


def around(values: Sequence[float], scale: str) -> tuple[float, float]:
    """Axis limits with room on both sides of the values, even for a single one; a logarithmic axis extends over a
    factor of four at least, so that it has ticks.
    """
    low, high = min(values), max(values)
    if scale == "log":
        room = max((high / low) ** 0.15, 2 / (high / low) ** 0.5)
        return low / room, high * room
    room = 0.15 * (high - low) or 0.5 * high
    return low - room, high + room


def spread(row: Row) -> tuple[float, float]:
    """How far the error bar extends below and above the test top-1 (%); 0 if unknown."""
    top1, std, _ = row.stats["test_top1"]
    if row.interval is not None:
        return max(0.0, 100 * (top1 - row.interval.low)), max(0.0, 100 * (row.interval.high - top1))
    return 100 * (std or 0.0), 100 * (std or 0.0)


def place_labels(
    panel: Axes, marks: Sequence[tuple[float, float, float, float]], texts: Mapping[str, tuple[float, float]]
) -> None:
    """Place each text beside its point, where it overlaps least with earlier texts and with marks: points with error
    bars, (x, y, from, to). It should be nearer to its own point than to another; if it is not, or far, a line leads
    there. The size of the panel must be final.
    """
    figure = panel.get_figure()
    assert isinstance(figure, Figure)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    ends = [panel.transData.transform([(x, low), (x, high)]) for x, _, low, high in marks]
    taken = [mpl.transforms.Bbox([low - 4, high + 4]) for low, high in ends]
    points = [panel.transData.transform((x, y)) for x, y, _, _ in marks]
    room = panel.get_window_extent(renderer)
    for text, point in texts.items():
        own = panel.transData.transform(point)
        others = [other for other in points if np.hypot(*(other - own)) > 1]
        labels = [panel.annotate(text, point, (x, y), ha=side, **LABEL) for x, y, side in AROUND]
        tried = [(label, label.get_window_extent(renderer)) for label in labels]
        mistakable = [
            any(distance(extent, other) < NEARER * distance(extent, own) for other in others) for _, extent in tried
        ]
        area = tried[0][1].width * tried[0][1].height  # all have the same text
        covered = [
            10 * sum(overlap(extent, other) for other in taken)
            + 3 * (area - overlap(extent, room))
            + 0.5 * area * doubtful
            for (_, extent), doubtful in zip(tried, mistakable, strict=True)
        ]
        best = covered.index(min(covered))
        x, y, side = AROUND[best]
        led = abs(y) > NEAR or mistakable[best]
        for i, (label, _) in enumerate(tried):
            if i != best or led:
                label.remove()
        if led:
            panel.annotate(text, point, (x, y), ha=side, arrowprops=LEADER, **LABEL)
        taken.append(tried[best][1])


def distance(box: Any, point: np.ndarray) -> float:
    """From a point to the nearest one of a box."""
    x, y = np.clip(point, (box.x0, box.y0), (box.x1, box.y1))
    return math.hypot(x - point[0], y - point[1])


def overlap(one: Any, other: Any) -> float:
    """The overlap area of two boxes."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)
