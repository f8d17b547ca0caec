"""Figures of what a network looks at; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.reporting.drawing import STYLE, rendered

if TYPE_CHECKING:
    from bench.attention import Attention


def draw(filters: np.ndarray, seen: Sequence[Attention], classes: Sequence[str], name: str) -> dict[str, bytes]:
    """File name → SVG or PNG of the first layer's filters (n, k, k, C), of where the network ``name`` looks in all
    images, and of the features of each image.
    """
    with mpl.rc_context(STYLE):
        figures = {"filters": of_filters(filters, name), "attention": of_attention(seen, classes, name)}
        figures |= {f"features-{i}": of_features(one, name) for i, one in enumerate(seen, start=1) if one.features}
        return {f"{stem}.{kind}": rendered(figure, kind) for stem, figure in figures.items() for kind in ("svg", "png")}


def of_filters(filters: np.ndarray, name: str) -> Figure:
    """Colour filters as images, others channel by channel; grey is 0, each scaled by its largest weight."""
    if filters.shape[-1] != 3:
        filters = filters.transpose(0, 3, 1, 2).reshape(-1, *filters.shape[1:3], 1)
    columns = math.ceil(math.sqrt(2 * len(filters)))
    rows = math.ceil(len(filters) / columns)
    figure = Figure(figsize=(6.5, 6.5 * rows / columns + 0.4), layout="constrained")
    figure.suptitle(f"{name}: filters of the first layer", fontsize=10)
    panels = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    for panel in panels:
        panel.set_axis_off()
    for panel, weights in zip(panels, filters, strict=False):
        show(panel, around_grey(weights))
    return figure


def around_grey(values: np.ndarray) -> np.ndarray:
    """Signed values scaled to [0, 1], with 0 at 0.5."""
    return 0.5 + values / (2 * max(float(np.abs(values).max()), 1e-12))


def of_attention(seen: Sequence[Attention], classes: Sequence[str], name: str) -> Figure:
    """One row per image: the image, occlusion map, Grad-CAM."""
    figure = Figure(figsize=(6.5, 2.3 * len(seen) + 0.4), layout="constrained")
    figure.suptitle(f"{name}: where it looks", fontsize=10)
    panels = figure.subplots(len(seen), 3, squeeze=False)
    for (left, middle, right), one in zip(panels, seen, strict=True):
        told = f"{classes[one.predicted]} {one.probability:.0%}"
        show(left, one.image)
        wrong = one.true is not None and one.true != classes[one.predicted]
        left.set_title(f"{one.true}, taken for {told}" if wrong else told)
        reach = max(float(np.abs(one.occlusion).max()), 1e-12)
        drop = middle.imshow(one.occlusion, cmap="PuOr_r", vmin=-reach, vmax=reach)
        middle.set_title(f"occlusion, {classes[one.asked]}")
        figure.colorbar(drop, ax=middle, label="drop of probability", shrink=0.8)
        show(right, one.image)
        right.imshow(one.grad_cam, cmap="magma", alpha=0.6)
        right.set_title(f"Grad-CAM, {classes[one.asked]}")
        for panel in (left, middle, right):
            panel.set_axis_off()
    return figure


def of_features(one: Attention, name: str) -> Figure:
    """One row per layer: its strongest maps, each beside what its largest value comes from."""
    layers = list(dict.fromkeys(feature.layer for feature in one.features))
    most = max(sum(feature.layer == layer for feature in one.features) for layer in layers)
    figure = Figure(figsize=(0.9 * (2 * most + 1), 1.15 * len(layers) + 0.4), layout="constrained")
    figure.suptitle(f"{name}: strongest feature maps, and what they respond to", fontsize=10)
    panels = figure.subplots(len(layers), 2 * most + 1, squeeze=False)
    for panel in panels.flatten():
        panel.set_axis_off()
    for row, layer in zip(panels, layers, strict=True):
        show(row[0], one.image)
        row[0].set_title(layer, fontsize=7)
        for i, feature in enumerate(feature for feature in one.features if feature.layer == layer):
            show(row[1 + 2 * i], feature.activation, cmap="magma")
            row[1 + 2 * i].set_title(f"map {feature.channel}", fontsize=7)
            show(row[2 + 2 * i], around_grey(feature.projection))
    return figure


def show(panel: Axes, image: np.ndarray, cmap: str = "gray") -> None:
    """An image of one or three channels, pixels as squares."""
    grey = image.ndim == 3 and image.shape[-1] == 1
    panel.imshow(image[..., 0] if grey else image, cmap=cmap, interpolation="nearest")
