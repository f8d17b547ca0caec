"""How training speed and memory change with the size of batches, images and the data set."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from bench import console, machine
from bench.config import need
from bench.errors import MeasureError
from bench.files import write_atomically
from bench.speed.contestants import Job, fit, machine_settings
from bench.speed.timing import interleaved, publish
from bench.speed.train import ceiling
from bench.speed.turns import Contestant, together

ROUNDS = 3


class Point(NamedTuple):
    """``at``: the value on the axis; the ``settings`` that make it; size of the batch; about so many images an epoch,
    with networks as fast as LeNet.
    """

    at: int
    settings: tuple[str, ...]
    batch: int
    images: int


class Axis(NamedTuple):
    """What grows. Rates are told in ``unit``/s, of which an image has the square of its side or, where its size stays
    the same, one.
    """

    title: str
    unit: str
    points: tuple[Point, ...]


BATCH = 128
AXES = (
    Axis(
        "batch size",
        "images",
        tuple(Point(n, (f"data.batch_size={n}",), n, 25_600) for n in (32, 64, 128, 256, 512, 1024)),
    ),
    Axis(
        "image side, pixels",
        "pixels",
        tuple(
            Point(side, (f"data.image_size={side}",), BATCH, 25_600 * 32**2 // side**2)
            for side in (32, 48, 64, 80, 128, 224)
        ),
    ),
    Axis("images of the data set", "images", tuple(Point(n, (), BATCH, n) for n in (10_000, 50_000, 500_000))),
)
MODELS = {"lenet": 224, "nin_bn": 80}
"""The smallest network, where all that is not the network shows most, and one of convolutions alone; with the largest
image that it takes as it is: NiN is another network from 96 pixels on.
"""
NOTE = (
    "Training with the Trainer at 32×32 in batches of 128 unless stated otherwise; the figure shows rates relative to "
    "each network's highest. NiN is shown up to 80 pixels, as it is another network from 96 on, and is left out "
    "where the data set grows."
)
SLOWER = {"lenet": 1, "nin_bn": 20}
"""So many times fewer images in an epoch, but for the last axis."""
MOST = 10
"""Times more images in an epoch on a faster machine: 750 MiB of them."""


def measure(resolved: Mapping[str, Any]) -> list[str]:
    """Measure, print, draw and write, see the command's help; returns one line per failure."""
    need("bench-speed growth", "report", "matplotlib")
    device = machine.device(resolved["trainer"]["accelerator"])  # fail before minutes of measuring
    shared, faster = tuple(machine_settings(resolved)), times_faster(ceiling(device))
    values: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    failed: list[str] = []
    for axis in AXES:
        for name in list(MODELS)[:1] if axis is AXES[-1] else MODELS:
            console.say(f"{name}, {axis.title}: {', '.join(f'{point[0]:,}' for point in axis.points)}")
            try:
                values.setdefault(axis.title, {})[name] = grow(name, axis, shared, faster)
            except MeasureError as error:
                failed.append(f"{name}, {axis.title}: {error}")
                console.say(f"  {error}")
    if not values:
        return failed
    axes = [axis for axis in AXES if axis.title in values]
    tables = [
        (
            f"{name}: {axis.title}",
            [axis.title, "images/s", *(["megapixels/s"] if axis.unit == "pixels" else []), "MiB"],
            [row(axis, at, point) for at, point in values[axis.title][name].items()],
        )
        for axis in axes
        for name in values[axis.title]
    ]
    folder = publish(resolved, "growth", tables, values, NOTE, failed)
    for kind in ("svg", "png"):
        write_atomically(folder / f"growth.{kind}", draw(values, kind))
    console.say(f"written: {folder}/growth.svg, {folder}/growth.png")
    return failed


def times_faster(flops: float) -> int:
    """Than a CPU of 10¹² FLOP/s, at most MOST: a GPU's epochs have so many times more images."""
    return max(1, min(MOST, round(flops / 1e12)))


def grow(name: str, axis: Axis, shared: tuple[str, ...], faster: int) -> dict[int, dict[str, float]]:
    """By value of the axis, ``images_per_s``, the median of rounds, and ``peak_bytes``."""
    jobs = {
        str(point.at): Job((f"model={name}", *shared, *point.settings), epoch(axis, name, point, faster), ROUNDS + 2)
        for point in axis.points
        if axis.unit != "pixels" or point.at <= MODELS[name]
    }
    with together({at: Contestant(fit, job) for at, job in jobs.items()}) as contestants:
        rates = interleaved(contestants, ROUNDS)
        peaks = {at: each.last.peak_bytes for at, each in contestants.items()}
    return {int(at): {"images_per_s": statistics.median(each), "peak_bytes": peaks[at]} for at, each in rates.items()}


def epoch(axis: Axis, name: str, point: Point, faster: int) -> int:
    """Images of an epoch: whole batches, at least four, but for the size of the data set, which is what it is."""
    if axis is AXES[-1]:
        return point.images
    return point.batch * max(4, faster * point.images // SLOWER[name] // point.batch)


def row(axis: Axis, at: int, point: Mapping[str, float]) -> list[str]:
    """Of the table."""
    rate = point["images_per_s"]
    pixels = [f"{rate * at**2 / 1e6:,.2f}"] if axis.unit == "pixels" else []
    return [f"{at:,}", f"{rate:,.0f}", *pixels, f"{point['peak_bytes'] / 2**20:,.0f}"]


def draw(values: Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]], kind: str) -> bytes:
    """A column an axis of ``values``: rates above, relative to the best, memory below."""
    import matplotlib
    from matplotlib.figure import Figure

    from bench.reporting.drawing import COLORS, MARKERS, STYLE, rendered

    axes = [axis for axis in AXES if axis.title in values]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3 * len(axes), 4.6), layout="constrained")
        panels = figure.subplots(2, len(axes), sharex="col", squeeze=False)
        for column, axis in enumerate(axes):
            above, below = panels[0][column], panels[1][column]
            for name, points in values[axis.title].items():
                i = list(MODELS).index(name)
                per_image = {at: at**2 if axis.unit == "pixels" else 1 for at in points}
                rates = [point["images_per_s"] * per_image[at] for at, point in points.items()]
                style: dict[str, Any] = {"color": COLORS[i], "marker": MARKERS[i], "markersize": 4, "label": name}
                above.plot(list(points), [rate / max(rates) for rate in rates], **style)
                below.plot(list(points), [point["peak_bytes"] / 2**30 for point in points.values()], **style)
            above.set_ylim(0, 1.05)
            below.set_ylim(bottom=0)
            above.set_title(f"{axis.unit}/s, of the most")
            below.set_title("peak memory, GiB")
            below.set_xlabel(axis.title)
            below.set_xscale("log", base=10)
            ticks = [point.at for point in axis.points]
            below.set_xticks(ticks, [f"{at // 1000}k" if at >= 10_000 else str(at) for at in ticks])
            below.minorticks_off()
        shown = {line.get_label(): line for panel in panels[0] for line in panel.lines}
        panels[0][0].legend(shown.values(), shown.keys(), frameon=False)
        return rendered(figure, kind)
