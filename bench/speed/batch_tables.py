"""Networks' time, memory and energy by size of batch, as a table, as CSV and as a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.reporting.render import count

MODES = ("inference", "training")


class Point(NamedTuple):
    """A network in one mode with one size of batch; medians of rounds.

    ``milliseconds``: a call, waited for. ``peak_bytes``: of the GPU's allocator, or of the whole process on a CPU.
    ``activation_bytes``: of an image, what the forward pass keeps for the backward pass; ``joules``: of an image.
    """

    model: str
    mode: str
    batch: int
    milliseconds: float
    images_per_s: float
    peak_bytes: int
    activation_bytes: float | None
    joules: float | None


def note(points: Sequence[Point]) -> str:
    """What the columns of the table are."""
    small, large = min(each.batch for each in points), max(each.batch for each in points)
    return (
        f"KiB of each image that training keeps for the backward pass; ms of inference with {small} in a batch; "
        f"images/s of inference and of training, the best over the sizes; MiB of training with {large}, the process as "
        "a whole on a CPU. All sizes: profile.csv, profile.png."
    )


def table(
    title: str, sums: Mapping[str, tuple[int, int]], points: Sequence[Point]
) -> tuple[str, list[str], list[list[str]]]:
    """A row a model, – where that failed: what training keeps of an image; the latency of inference with the smallest
    batch; the best rates of inference and training; training's peak memory with the largest batch; energy of an image.
    """
    small, large = min(each.batch for each in points), max(each.batch for each in points)
    header = ["", "params", "MACs", "KiB kept", f"ms, {small}", "images/s", "trained/s", f"MiB, {large}"]
    told = any(each.joules is not None for each in points)
    header += ["mJ", "mJ trained"] * told
    rows = []
    for name in dict.fromkeys(each.model for each in points):
        use, learn = ([each for each in points if each.model == name and each.mode == mode] for mode in MODES)
        row = [name, *(count(number) for number in sums[name])]
        row.append(next((f"{each.activation_bytes / 1024:,.0f}" for each in learn if each.activation_bytes), "–"))
        row.append(next((f"{each.milliseconds:.1f}" for each in use if each.batch == small), "–"))
        row += [f"{max(each.images_per_s for each in mode):,.0f}" if mode else "–" for mode in (use, learn)]
        row.append(next((f"{each.peak_bytes / 2**20:,.0f}" for each in learn if each.batch == large), "–"))
        if told:
            least = [min((each.joules for each in mode if each.joules), default=None) for mode in (use, learn)]
            row += ["–" if joules is None else f"{1e3 * joules:,.1f}" for joules in least]
        rows.append(row)
    return title, header, rows


def as_csv(points: Sequence[Point]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(Point._fields)
    rows.writerows(points)
    return text.getvalue()


def draw(points: Sequence[Point], kind: str) -> bytes:
    """Rates and latency of inference, rates and memory of training, against the size of the batch."""
    import matplotlib
    from matplotlib.figure import Figure

    from bench.reporting.drawing import COLORS, MARKERS, STYLE, plain_log, rendered

    names = list(dict.fromkeys(each.model for each in points))
    families = list(dict.fromkeys(name.removesuffix("_bn") for name in names))
    panels = (
        ("inference, images/s", "inference", lambda each: each.images_per_s),
        ("training, images/s", "training", lambda each: each.images_per_s),
        ("inference, ms a batch", "inference", lambda each: each.milliseconds),
        ("training, peak memory, GiB", "training", lambda each: each.peak_bytes / 2**30),
    )
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        for axes, (title, mode, value) in zip(figure.subplots(2, 2).flatten(), panels, strict=True):
            shown = [each for each in points if each.mode == mode]
            if not shown:
                axes.set_axis_off()
                continue
            for name in names:
                those = [each for each in shown if each.model == name]
                i = families.index(name.removesuffix("_bn"))
                axes.plot(
                    [each.batch for each in those],
                    [value(each) for each in those],
                    color=COLORS[i % len(COLORS)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=3.5,
                    linewidth=1.2,
                    linestyle="--" if name.endswith("_bn") else "-",
                    label=name,
                )
            axes.set_title(title)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted({each.batch for each in points}))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.minorticks_off()
            if mode == "training" and "memory" in title:
                axes.set_ylim(0, 1.08 * max(value(each) for each in shown))
            else:
                axes.set_yscale("log")
                plain_log(axes.yaxis)
        figure.supxlabel("images in a batch", fontsize=8)
        handles, labels = next(axes for axes in figure.axes if axes.lines).get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        return rendered(figure, kind)
