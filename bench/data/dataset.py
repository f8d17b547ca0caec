"""A data set as returned by every source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
            its own.
        skipped: names of images that could not be read and were left out.
        whole: the source including those images; None if nothing was skipped.
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    skipped: tuple[str, ...] = ()
    whole: Whole | None = None

    def hold_out(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the remaining training samples, and of validation samples drawn from them, stratified.

        The draw does not depend on which images could be read: skipped ones are drawn like the others.

        Raises:
            ValueError: ``size`` is impossible.
        """
        whole = self.whole or Whole(self.labels, self.train, np.arange(len(self.labels)))
        place = np.full(len(whole.labels), -1)
        place[whole.kept] = np.arange(len(whole.kept))
        rest, drawn = (place[whole.train[part]] for part in hold_out(whole.labels[whole.train], size))
        return rest[rest >= 0], drawn[drawn >= 0]


class Whole(NamedTuple):
    """A source with its skipped images: ``labels`` (M,), positions of the ``train`` images and of those ``kept``."""

    labels: np.ndarray
    train: np.ndarray
    kept: np.ndarray


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
    """Decode a source's images and leave out those that were skipped.

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
        ValueError: an image cannot be read, or no training or test image is left.
    """
    decoded = decoder.decode(name, names or ids, content, read)
    labels = np.asarray(labels, dtype=np.int64)
    whole = Whole(labels, np.flatnonzero(np.asarray(parts) == TRAIN), decoded.kept)
    parts = np.asarray(parts)[decoded.kept]
    for part, word in ((TRAIN, "training"), (TEST, "test")):
        if not (parts == part).any():
            raise ValueError(f"{name}: has no {word} images")
    return Dataset(
        pixels=decoded.pixels,
        labels=labels[decoded.kept],
        ids=np.asarray(ids)[decoded.kept],
        classes=tuple(classes),
        train=np.flatnonzero(parts == TRAIN),
        val=np.flatnonzero(parts == VAL),
        test=np.flatnonzero(parts == TEST),
        skipped=decoded.skipped,
        whole=whole,
    )
