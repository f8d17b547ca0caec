"""Tables and a contact sheet of a data set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from bench.data.module import ImageData
from bench.data.normalize import AffineNormalize, Normalize
from bench.data.statistics import pixel_statistics

COLUMNS, EPOCHS, GAP = 12, 3, 4
LEAST_SIDE = 96
"""Smaller images are enlarged to at least this many pixels on the sheet."""
SHOWN_CLASSES = 20


def tables(data: ImageData) -> Iterator[Table]:
    """Sizes; mean and standard deviation of the training images; class balance."""
    dataset = data.dataset
    side, channels = dataset.pixels.shape[2:]
    cropped = f", cropped to {data.plain.size}×{data.plain.size}" if data.plain.size != side else ""
    title = f"{len(dataset.classes)} classes, {side}×{side}×{channels}{cropped}"
    sizes = _table(title, "part", "images", "per class")
    counts = {}
    for name in ("train", "val", "test"):
        index = getattr(data, name)
        counts[name] = np.bincount(dataset.labels[index], minlength=len(dataset.classes))
        low, high = counts[name].min(), counts[name].max()
        sizes.add_row(name, f"{len(index):,}", f"{low:,}" if low == high else f"{low:,} … {high:,}")
    if dataset.skipped:
        sizes.add_row("skipped", f"{len(dataset.skipped):,}", "")
    yield sizes
    mean, std = pixel_statistics(dataset.pixels, data.train)
    colors = _table("training images", "", *(("red", "green", "blue") if channels == 3 else ("grey",)))
    colors.add_row("mean", *(f"{value / 255:.4f}" for value in mean))
    colors.add_row("std", *(f"{value / 255:.4f}" for value in std))
    yield colors
    classes = _table("images per class", "class", "train", "val", "test")
    order = np.argsort(-counts["train"], kind="stable")
    shown = order if len(order) <= SHOWN_CLASSES else [*order[: SHOWN_CLASSES // 2], -1, *order[-SHOWN_CLASSES // 2 :]]
    for label in shown:
        if label < 0:
            classes.add_row(f"… {len(order) - SHOWN_CLASSES} more", "", "", "")
        else:
            classes.add_row(escape(dataset.classes[label]), *(f"{counts[name][label]:,}" for name in counts))
    yield classes


def _table(title: str, name: str, *columns: str) -> Table:
    table = Table(name, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def contact_sheet(data: ImageData) -> Image.Image:
    """Stored training images in the first row, the same images as augmented in the first epochs in the rows below.

    Normalisation by mean and standard deviation is undone, with the mean colour of a mean image. Whitened values are
    stretched, equally for all images, so that 98 % of those of the stored images lie between black and white.
    """
    loader = data.train_dataloader()
    assert loader.sampler is not None
    samples = loader.draw().order[:COLUMNS]
    stored = torch.from_numpy(data.dataset.pixels[data.train[samples.numpy()]])
    low, high = _range(data.plain.normalize, stored)
    rows = [stored.float()]
    for epoch in range(EPOCHS):
        loader.sampler.set_epoch(epoch)
        images = loader.batch(samples, loader.draw()).images.float().cpu()
        rows.append((images.permute(0, 2, 3, 1) - low) / (high - low) * 255)
    side = max(row.shape[1] for row in rows)
    side *= -(-LEAST_SIDE // side)
    cell = side + GAP
    sheet = Image.new("RGB", (len(samples) * cell + GAP, len(rows) * cell + GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row.clamp(0, 255).round().byte().numpy()):
            picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (GAP + x * cell, GAP + y * cell))
    return sheet


def _range(normalize: Normalize, stored: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised values shown as black and white, (C,) or scalars."""
    if isinstance(normalize, AffineNormalize):  # the mean over pixels, if they differ
        black, white = torch.zeros_like(stored[:1]), torch.full_like(stored[:1], 255)
        return normalize(black).mean((0, 1, 2)), normalize(white).mean((0, 1, 2))
    values = normalize(stored).flatten()
    low, high = np.percentile(values.numpy(), [1, 99])
    return torch.tensor(low), torch.tensor(high)
