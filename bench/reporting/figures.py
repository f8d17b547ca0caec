"""Figures for a paper or a lecture, from records and predictions; needs matplotlib, and nothing that trains.

Okabe and Ito's colours, which the colour-blind tell apart, with markers and line styles for print in grey.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.record import RunRecord
from bench.reporting import ablations, stats
from bench.reporting.curves import curves
from bench.reporting.leaderboard import Row, Table
from bench.reporting.predictions import Predictions, same_samples

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
GREY = "#B8B8B8"
AROUND = (
    *((6, 0, "left"), (-6, 0, "right"), (0, 9, "center"), (0, -9, "center"), (6, 8, "left"), (6, -8, "left")),
    *((-6, 8, "right"), (-6, -8, "right"), (0, 18, "center"), (0, -18, "center"), (6, 16, "left"), (-6, 16, "right")),
)
"""Where a label may stand beside its point: points (1/72 inch) right and up, and its alignment."""
BEHIND = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
"""Of a label, so that it can be read above a line."""
COSTS = {
    "params": ("parameters", 1.0, "log"),
    "macs": ("multiply-accumulates an image", 1.0, "log"),
    "fit_seconds": ("training time in s", 1.0, "log"),
    "peak_memory_bytes": ("peak memory in MiB", 2.0**-20, "linear"),
}
"""Of records, each with its label, factor and scale."""
NAMED = 8
"""So many curves have a colour and a name of their own; of more points those on the Pareto front have names."""
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


def draw(
    tables: Sequence[Table], records: Sequence[RunRecord], predictions: Mapping[str, Predictions], runs: Path
) -> dict[str, bytes]:
    """File name → SVG or PNG, of each table the figures that there are numbers for; ``runs`` holds the runs'
    directories. Equal records give equal bytes.
    """
    files: dict[str, bytes] = {}
    with mpl.rc_context(STYLE):
        for table in tables:
            named = {
                "cost": cost(table),
                "curves": learning(table, runs),
                "confusion": confusions(table, predictions),
                "reliability": reliabilities(table, predictions),
                "ablation": ablation(table, records, predictions),
            }
            for name, figure in named.items():
                if figure is not None:
                    stem = re.sub(r"[^\w.-]+", "-", f"{table.dataset}-{table.protocol}-{name}")
                    files |= {f"{stem}.svg": rendered(figure, "svg"), f"{stem}.png": rendered(figure, "png")}
    return files


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as ``svg`` or ``png``, without a date."""
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(content, format=kind, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
    return content.getvalue()


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of (cost, accuracy) pairs those that no other beats in one without being worse in the other, by cost; of equal
    ones the first.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def title_of(table: Table) -> str:
    return f"{table.dataset} ({table.protocol})"


def name_of(row: Row) -> str:
    """The network, and if need be the settings that tell it from others, in lines of 40 characters or a setting."""
    return textwrap.fill(f"{row.model} {row.variant}".strip(), 40, break_long_words=False, break_on_hyphens=False)


def cost_of(row: Row, name: str) -> float | None:
    """One of COSTS in its unit; None where it is not known."""
    value = row.stats[name].mean if name in row.stats else getattr(row, name, None)
    return value and value * COSTS[name][1]


def cost(table: Table) -> Figure | None:
    """Test top-1, with its interval or else the deviation over seeds, against each of COSTS, and the Pareto front."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title_of(table), fontsize=10)
    panels = figure.subplots(2, 2, sharey=True)
    few, handles = len(table.rows) <= NAMED, {}
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
        front = [list(points)[i] for i in pareto(list(points.values()))]
        panel.step(*zip(*(points[place] for place in front), strict=True), where="post", color=GREY, zorder=1)
        bars = []
        for place, (x, y) in points.items():
            below, above = spread(table.rows[place])
            bars.append((x, y - below, y + above))
            handles[place] = panel.errorbar(
                x,
                y,
                yerr=[[below], [above]],
                color=COLORS[place % len(COLORS)],
                marker=MARKERS[(place + place // len(COLORS)) % len(MARKERS)],  # no two alike among 64
                linestyle="none",
                markersize=5,
                capsize=2,
                elinewidth=0.8,
            )
        panel.margins(y=0.15)
        named = list(points) if few else front
        place_labels(panel, bars, {name_of(table.rows[place]): points[place] for place in named})
    for panel in panels[:, 0]:
        panel.set_ylabel("test top-1 in %")
    if handles and not few:
        names = [name_of(table.rows[place]) for place in sorted(handles)]
        columns = 4 if max(map(len, names)) < 24 else 1
        figure.legend(
            [handles[place] for place in sorted(handles)], names, loc="outside lower center", ncols=columns,
            frameon=False, fontsize=7,
        )  # fmt: skip
    return figure if handles else None


def around(values: Sequence[float], scale: str) -> tuple[float, float]:
    """Limits of an axis that leave room on both sides of the values, also of a single one."""
    low, high = min(values), max(values)
    if scale == "log":
        room = (high / low) ** 0.15 if high > low else 2.0
        return low / room, high * room
    room = 0.15 * (high - low) or 0.5 * high
    return low - room, high + room


def spread(row: Row) -> tuple[float, float]:
    """How far below and above the test top-1 (%) its error bar ends; 0 where nothing is known."""
    top1, std, _ = row.stats["test_top1"]
    if row.interval is not None:
        return max(0.0, 100 * (top1 - row.interval.low)), max(0.0, 100 * (row.interval.high - top1))
    return 100 * (std or 0.0), 100 * (std or 0.0)


def place_labels(
    panel: Axes, bars: Sequence[tuple[float, float, float]], texts: Mapping[str, tuple[float, float]]
) -> None:
    """Write each text beside its point, where it covers least of the error bars (x, from, to) and the texts before."""
    figure = panel.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    ends = [panel.transData.transform([(x, low), (x, high)]) for x, low, high in bars]
    taken = [mpl.transforms.Bbox([low - 4, high + 4]) for low, high in ends]
    room = panel.get_window_extent(renderer)
    for text, point in texts.items():
        labels = [
            panel.annotate(
                text, point, (x, y), textcoords="offset points", ha=side, va="center", fontsize=7, bbox=BEHIND
            )
            for x, y, side in AROUND
        ]
        tried = [(label, label.get_window_extent(renderer)) for label in labels]
        covered = [
            sum(overlap(extent, other) for other in taken) + extent.width * extent.height - overlap(extent, room)
            for _, extent in tried
        ]
        best = covered.index(min(covered))
        for i, (label, _) in enumerate(tried):
            if i != best:
                label.remove()
        taken.append(tried[best][1])


def overlap(one: Any, other: Any) -> float:
    """Area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def learning(table: Table, runs: Path) -> Figure | None:
    """Validation top-1, or that of training where there is none, and training loss by epoch: mean and range over
    seeds.
    """
    told = [[curves(runs / name) for name in row.run_ids] for row in table.rows]
    accuracy = "val_top1" if any("val_top1" in one for several in told for one in several) else "train_top1"
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    figure.suptitle(title_of(table), fontsize=10)
    left, right = figure.subplots(1, 2)
    drawn = False
    for panel, name, scale in ((left, accuracy, 100), (right, "train_loss", 1)):
        for place, (row, several) in reversed(list(enumerate(zip(table.rows, told, strict=True)))):
            values = [np.array(one[name]) * scale for one in several if name in one]
            if not values:
                continue
            drawn = True
            low, mean, high = band(values)
            epochs = np.arange(1, len(mean) + 1)
            own = place < NAMED
            color, style = (COLORS[place], LINES[place % len(LINES)]) if own else (GREY, "-")
            dot = "o" if len(mean) == 1 else None
            label = name_of(row) if own else "_other"
            panel.plot(epochs, mean, style, color=color, linewidth=1.2, marker=dot, markersize=4, label=label)
            if own and len(values) > 1:
                panel.fill_between(epochs, low, high, color=color, alpha=0.2, linewidth=0)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    several_seeds = any(row.n > 1 for row in table.rows)
    left.set_ylabel(f"{'validation' if accuracy == 'val_top1' else 'training'} top-1 in %")
    right.set_ylabel("training loss")
    handles, names = left.get_legend_handles_labels()
    if handles:
        columns = 4 if max(map(len, names)) < 24 else 2
        note = "mean and range over seeds" if several_seeds else None
        figure.legend(
            handles[::-1], names[::-1], loc="outside lower center", ncols=columns, frameon=False, fontsize=7, title=note
        )
    return figure if drawn else None


def band(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least, mean and largest value of each epoch over the runs that have it: (epochs,) each."""
    epochs = range(max(map(len, values)))
    there = [[one[epoch] for one in values if epoch < len(one)] for epoch in epochs]
    return tuple(np.array([function(one) for one in there]) for function in (np.min, np.mean, np.max))  # type: ignore[return-value]


def grid(table: Table, count: int, side: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` square panels."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(side * columns, side * rows + 0.3), layout="constrained")
    figure.suptitle(title_of(table), fontsize=10)
    panels = list(np.atleast_1d(figure.subplots(rows, columns)).flatten())
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def told_of(table: Table, predictions: Mapping[str, Predictions], most: int) -> list[tuple[Row, list[Predictions]]]:
    """The first ``most`` rows that have predictions, of the same samples."""
    rows = [(row, [predictions[name] for name in row.run_ids if name in predictions]) for row in table.rows]
    return [(row, several) for row, several in rows if several and same_samples(several)][:most]


def confusions(table: Table, predictions: Mapping[str, Predictions]) -> Figure | None:
    """Of the first six rows, over all seeds, how often each class is taken for each."""
    told = told_of(table, predictions, most=6)
    if not told:
        return None
    figure, panels = grid(table, len(told), side=3.2 if len(told) > 1 else 4.5)
    image = None
    for panel, (row, several) in zip(panels, told, strict=True):
        count = len(several[0].classes)
        matrix = sum(stats.confusion(one.labels, one.predicted, count) for one in several)
        share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # type: ignore[union-attr]
        image = panel.imshow(share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
        panel.set(title=name_of(row), xlabel="predicted", ylabel="class")
        panel.spines[:].set_visible(False)
        if count <= 20:
            names = [str(name) for name in several[0].classes]
            panel.set_xticks(range(count), names, rotation=90, fontsize=6)
            panel.set_yticks(range(count), names, fontsize=6)
        if count <= 12:
            for i, j in np.argwhere(share >= 0.5):
                color = "white" if share[i, j] > 55 else "black"
                panel.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=5.5, color=color)
    assert image is not None
    figure.colorbar(image, ax=panels, label="% of the class", shrink=0.7)
    return figure


def reliabilities(table: Table, predictions: Mapping[str, Predictions]) -> Figure | None:
    """Accuracy by confidence of the first nine rows, over all seeds (Guo et al. 2017, Figure 1)."""
    told = told_of(table, predictions, most=9)
    if not told:
        return None
    figure, panels = grid(table, len(told), side=2.4 if len(told) > 1 else 3.5)
    edges = np.linspace(0, 1, stats.BINS + 1)
    for panel, (row, several) in zip(panels, told, strict=True):
        confidence = np.concatenate([one.confidence for one in several])
        calibration = stats.calibration(confidence, np.concatenate([one.correct for one in several]))
        height = np.nan_to_num(calibration.accuracy)
        panel.bar(edges[:-1], height, 1 / stats.BINS, align="edge", color=COLORS[5], edgecolor="white", linewidth=0.5)
        panel.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"{name_of(row)}\nECE {100 * calibration.ece:.1f} %")
        panel.set(xlabel="confidence", ylabel="accuracy")
    return figure


def ablation(table: Table, records: Sequence[RunRecord], predictions: Mapping[str, Predictions]) -> Figure | None:
    """What batch norm and auxiliary heads buy: differences of test top-1, with intervals over seeds and samples."""
    found = ablations.pairs(table, records)
    if not found:
        return None
    figure = Figure(figsize=(6, 0.9 + 0.32 * len(found)), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0, color=GREY, linewidth=1)
    for place, pair in enumerate(found):
        color, marker = {"batch norm": (COLORS[0], "o"), "auxiliary heads": (COLORS[3], "s")}[pair.what]
        low, middle, high = ablations.difference(pair, predictions)
        reach = None if low is None or high is None else [[100 * (middle - low)], [100 * (high - middle)]]
        panel.errorbar(100 * middle, place, xerr=reach, color=color, marker=marker, markersize=5, capsize=3)
    panel.set_yticks(range(len(found)), [f"{name_of(pair.without)}: {pair.what}" for pair in found])
    panel.set(xlabel="test top-1 with it minus without it, in percentage points; 95 % intervals", ylim=(-0.6, None))
    panel.set_title(title_of(table), fontsize=10)
    panel.invert_yaxis()
    return figure
