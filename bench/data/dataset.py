"""A data set as returned by every source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from bench.data.decode import Decoder
from bench.data.splits import hold_out

TRAIN, VAL, TEST = range(3)
"""The official parts of a data set."""


@dataclass(frozen=True)
class Dataset:
    """A data set decoded to one size.

    Attributes:
        pixels: (N, S, S, C) uint8, possibly memory-mapped.
        labels: (N,) int64, in [0, len(classes)).
        ids: (N,) str, the samples' names in the source.
        classes: class names, in the order of the labels.
        train, val, test: positions of the official parts; ``val`` is empty if the source has no validation images of
            its own. None has images that could not be read, whose pixels are 0.
        lost: positions of training images that could not be read.
        skipped: names of all images that could not be read.
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    lost: np.ndarray = field(default_factory=lambda: np.arange(0))
    skipped: tuple[str, ...] = ()

    def hold_out(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the remaining training samples, and of validation samples drawn from them, stratified.

        The draw does not depend on which images could be read: lost ones are drawn like the others.

        Raises:
            ValueError: ``size`` is impossible, or none of those drawn could be read.
        """
        everything = np.sort(np.concatenate([self.train, self.lost]))
        rest, drawn = (everything[part] for part in hold_out(self.labels[everything], size))
        rest, drawn = (part[~np.isin(part, self.lost)] for part in (rest, drawn))
        if size and not len(drawn):
            raise ValueError("none of the images drawn for validation can be read")
        return rest, drawn


Source = Callable[[Decoder], Dataset]
"""What a configuration in ``conf/data`` describes: returns the data set at the decoder's size."""


def assemble(
    decoder: Decoder,
    name: str,
    ids: Sequence[str],
    labels: np.ndarray,
    parts: np.ndarray,
    classes: Sequence[str],
    content: Any,
    read: Callable[[int], Image.Image],
    names: Sequence[str] | None = None,
) -> Dataset:
    """Decode a source's images and leave those that cannot be read out of its parts.

    Args:
        decoder: decodes to the requested size, or loads from its cache.
        name: of the source.
        ids: (N,) one per sample, unique.
        labels: (N,) positions in ``classes``.
        parts: (N,) of TRAIN, VAL, TEST.
        classes: class names.
        content, read: as for :meth:`Decoder.decode`.
        names: (N,) names of the images in messages, their files; None for ``ids``.

    Raises:
        ValueError: an image cannot be read, or none of a part is left.
    """
    decoded = decoder.decode(name, names or ids, content, read)
    train, val, test = (np.flatnonzero((parts == part) & decoded.readable) for part in (TRAIN, VAL, TEST))
    validated = bool((parts == VAL).any())
    for part, word, needed in ((train, "training", True), (val, "validation", validated), (test, "test", True)):
        if needed and not len(part):
            raise ValueError(f"{name}: has no {word} images")
    return Dataset(
        pixels=decoded.pixels,
        labels=np.asarray(labels, dtype=np.int64),
        ids=np.asarray(ids),
        classes=tuple(classes),
        train=train,
        val=val,
        test=test,
        lost=np.flatnonzero((parts == TRAIN) & ~decoded.readable),
        skipped=decoded.skipped,
    )
