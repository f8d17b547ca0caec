"""Figures for papers and lectures, from records and predictions; needs matplotlib, but no training libraries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.reporting import ablations, stats
from bench.reporting.curves import curves
from bench.reporting.drawing import COLORS, GREY, STYLE, grid, looks, rendered
from bench.reporting.leaderboard import Row, Table
from bench.reporting.predictions import Predictions, same_samples
from bench.reporting.tradeoff import cost

KINDS = ("cost", "curves", "confusion", "reliability", "ablation")
NAME = re.compile(rf"[\w.-]+-({'|'.join(KINDS)})\.(svg|png)")
"""The names of files that :func:`draw` makes."""
CURVES = 16
"""Maximum number of curves with their own colour and style; the rest are grey and have no name."""
FEW = 20
"""A bin of fewer images says little about the accuracy."""
WIDE = 24
"""A name of so many characters would touch that of the next small panel; its settings go on a line of their own."""
LONGER = 5
"""Curves whose lengths differ by this factor are drawn over the share of the run's epochs."""


def draw(
    tables: Sequence[Table],
    effects: Sequence[Sequence[ablations.Effect]],
    predictions: Mapping[str, Predictions],
    runs: Path,
) -> dict[str, bytes]:
    """File name → SVG or PNG: for each table, the figures for which there is data; ``effects`` are the ablations found
    in each, ``runs`` contains the runs' directories. Equal records give equal bytes.
    """
    files: dict[str, bytes] = {}
    with mpl.rc_context(STYLE):
        for table, found in zip(tables, effects, strict=True):
            made = (
                cost(table),
                learning(table, runs),
                confusions(table, predictions),
                reliabilities(table, predictions),
                ablation(table, found),
            )
            for name, figure in zip(KINDS, made, strict=True):
                if figure is not None:
                    stem = re.sub(r"[^\w.-]+", "-", f"{table.dataset}-{table.protocol}-{name}")
                    files |= {f"{stem}.svg": rendered(figure, "svg"), f"{stem}.png": rendered(figure, "png")}
    return files


def learning(table: Table, runs: Path) -> Figure | None:
    """Validation top-1, or training top-1 if there is none, and training loss by epoch: mean and range over seeds.
    If the longest run has LONGER times the epochs of the shortest, by the share of its epochs that a run has done.
    """
    told = [[curves(runs / name) for name in row.run_ids] for row in table.rows]
    accuracy = "val_top1" if any("val_top1" in one for several in told for one in several) else "train_top1"
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    figure.suptitle(table.title, fontsize=10)
    left, right = figure.subplots(1, 2)
    lengths = [len(one["train_loss"]) for several in told for one in several if "train_loss" in one]
    shares = bool(lengths) and max(lengths) >= LONGER * min(lengths)
    look, drawn = looks([row.model for row in table.rows]), False
    for panel, name, scale in ((left, accuracy, 100), (right, "train_loss", 1)):
        for place, (row, several) in reversed(list(enumerate(zip(table.rows, told, strict=True)))):
            values = [np.array(one[name]) * scale for one in several if name in one]
            if not values:
                continue
            drawn = True
            low, mean, high = band(values)
            length = len(mean)
            epochs = np.flatnonzero(np.isfinite(mean)) + 1  # the others were not validated
            low, mean, high = low[epochs - 1], mean[epochs - 1], high[epochs - 1]
            at = 100 * epochs / length if shares else epochs
            own = place < CURVES
            style, color = (look[place].line, look[place].color) if own else ("-", GREY)
            dot = "o" if len(mean) == 1 else None
            label = row.name if own else "_other"
            panel.plot(at, mean, style, color=color, linewidth=1.2, marker=dot, markersize=4, label=label)
            if own and len(values) > 1:
                panel.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
        if shares:
            panel.set_xlabel("% of the run's epochs")
        else:
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    left.set_ylabel(f"{'validation' if accuracy == 'val_top1' else 'training'} top-1 in %")
    right.set_ylabel("training loss")
    handles, names = left.get_legend_handles_labels()
    if handles:
        columns = 4 if max(map(len, names)) < 24 else 2
        several_seeds = any(row.n > 1 for row in table.rows)
        note = "mean and range over seeds, where there are several" if several_seeds else None
        figure.legend(
            handles[::-1], names[::-1], loc="outside lower center", ncols=columns, frameon=False, fontsize=7, title=note
        )
    return figure if drawn else None


def band(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimum, mean and maximum of each epoch over the runs that have it: (epochs,) each."""
    epochs = range(max(map(len, values)))
    there = [[one[epoch] for one in values if epoch < len(one)] for epoch in epochs]
    return tuple(np.array([function(one) for one in there]) for function in (np.min, np.mean, np.max))  # type: ignore[return-value]


def told_of(table: Table, predictions: Mapping[str, Predictions], most: int) -> list[tuple[Row, list[Predictions]]]:
    """The first ``most`` rows of which all seeds have predictions, for the same samples."""
    whole = [row for row in table.rows if all(name in predictions for name in row.run_ids)]
    rows = [(row, [predictions[name] for name in row.run_ids]) for row in whole]
    return [(row, several) for row, several in rows if same_samples(several)][:most]


def confusions(table: Table, predictions: Mapping[str, Predictions]) -> Figure | None:
    """Confusion matrices of the first six rows, over all seeds."""
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
        panel.set(title=row.name, xlabel="predicted", ylabel="class")
        panel.spines[:].set_visible(False)
        if count <= 20:
            names = [str(name).encode(errors="backslashreplace").decode() for name in several[0].classes]
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
    """Accuracy by confidence of the first nine rows, over all seeds, and the mean of the seeds' expected calibration
    errors (Guo et al. 2017, figure 1, equation 3).
    """
    told = told_of(table, predictions, most=9)
    if not told:
        return None
    each = " a seed" if any(len(several) > 1 for _, several in told) else ""  # seeds answer the same images
    figure, panels = grid(
        table, len(told), side=2.4 if len(told) > 1 else 3.5, note=f"; grey: bins of fewer than {FEW} images{each}"
    )
    edges = np.linspace(0, 1, stats.BINS + 1)
    for panel, (row, several) in zip(panels, told, strict=True):
        confidence = np.concatenate([one.confidence for one in several])
        calibration = stats.calibration(confidence, np.concatenate([one.correct for one in several]))
        height = np.nan_to_num(calibration.accuracy)
        color = np.where(calibration.count < FEW * len(several), GREY, COLORS[5])
        panel.bar(edges[:-1], height, 1 / stats.BINS, align="edge", color=color, edgecolor="white", linewidth=0.5)
        panel.plot([0, 1], [0, 1], "--", color="black", linewidth=0.8)
        ece = np.mean([stats.calibration(one.confidence, one.correct).ece for one in several])
        name = row.name if len(row.name) < WIDE else row.name.replace(" ", "\n", 1)
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=f"{name}\nECE {100 * ece:.1f} %")
        panel.set(xlabel="confidence", ylabel="accuracy")
    return figure


def ablation(table: Table, found: Sequence[ablations.Effect]) -> Figure | None:
    """Ablations: differences of test top-1, with intervals over seeds and samples."""
    if not found:
        return None
    figure = Figure(figsize=(6, 0.9 + 0.32 * len(found)), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0, color=GREY, linewidth=1)
    for place, (_, middle, interval, _) in enumerate(found):
        reach = None if interval is None else [[100 * (middle - interval.low)], [100 * (interval.high - middle)]]
        panel.errorbar(100 * middle, place, xerr=reach, color=COLORS[0], marker="o", markersize=5, capsize=3)
    changes = [(pair.without.model, pair.what) for pair, *_ in found]
    names = [
        f"{pair.without.name if pair.switched or changes.count(change) > 1 else change[0]}: {pair.what}"
        for (pair, *_), change in zip(found, changes, strict=True)
    ]
    panel.set_yticks(range(len(found)), names)
    panel.set_xlabel("test top-1 after the change minus before, in percentage points")
    alone = any(pair.without.n == pair.with_it.n == 1 for pair, *_ in found)
    bars = f"bars: 95 % intervals{'; between single runs (n = 1) of the test images alone, not of seeds' * alone}"
    if any(interval is not None for _, _, interval, _ in found):
        figure.supxlabel(bars, fontsize=7)
    panel.set_ylim(len(found) - 0.4, -0.6)
    panel.set_title(table.title, fontsize=10)
    return figure
