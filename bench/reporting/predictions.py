"""Predictions for the test images: a run's ``predictions.npz`` and its hardest mistakes; without PyTorch."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import scipy.special
from PIL import Image

from bench.files import write_atomically

PREDICTIONS, MISTAKES = "predictions.npz", "mistakes.webp"
STEPS = 64
"""Logits are stored as whole multiples of the inverse."""
HARDEST, TILE = 16, 48
"""Number of mistakes in ``mistakes.webp``, side by side, and the maximum side of a tile in pixels."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of one run for its test samples.

    ``logits`` (n, K), from a file as it has them, as a report holds those of all runs; ``predicted`` (n,) the class of
    the largest one before any rounding in the file, ``labels`` (n,), ``ids`` (n,) the samples' names, ``classes`` (K,)
    the class names.
    """

    logits: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classes: np.ndarray

    @cached_property
    def correct(self) -> np.ndarray:
        """(n,) booleans."""
        return self.predicted == self.labels

    @property
    def probabilities(self) -> np.ndarray:
        """(n, K) float32, the softmax of the logits."""
        return scipy.special.softmax(self.logits.astype(np.float32), axis=1)

    @cached_property
    def confidence(self) -> np.ndarray:
        """(n,), the probability of the predicted class."""
        return self.probabilities[np.arange(len(self.labels)), self.predicted]

    def hardest(self, count: int = HARDEST) -> np.ndarray:
        """Positions of at most ``count`` mistakes, in ascending order of the true class's probability."""
        log = scipy.special.log_softmax(self.logits.astype(np.float32), axis=1)[
            np.arange(len(self.labels)), self.labels
        ]
        wrong = np.flatnonzero(~self.correct)
        return wrong[np.argsort(log[wrong], kind="stable")[:count]]


def save(run: Path, made: Predictions) -> Predictions:
    """Write ``predictions.npz`` into a run's directory; returns what :func:`load` reads there.

    Logits are rounded to a 64th: further digits, which do not compress, are a quarter of the file or more. Where all
    are below 32 they become float16, which has those steps.
    """
    logits = np.rint(made.logits * STEPS) / STEPS
    logits = logits.astype(np.float16 if np.abs(logits).max(initial=0) < 32 else np.float32)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        logits=logits,
        predicted=made.predicted.astype(np.int16),
        labels=made.labels,
        ids=made.ids,
        classes=made.classes,
    )
    write_atomically(run / PREDICTIONS, content.getvalue())
    return dataclasses.replace(made, logits=logits)


def load(run: Path) -> Predictions | None:
    """The predictions in a run's directory; None if there are none.

    Raises:
        ValueError: the file is damaged.
    """
    file = run / PREDICTIONS
    if not file.exists():
        return None
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:  # NumPy leaves bad ones open
            return Predictions(
                content["logits"],
                content["predicted"].astype(np.int64),
                content["labels"],
                content["ids"],
                content["classes"],
            )
    except (
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{file}: is damaged ({error})") from error


def strip(pixels: np.ndarray, side: int = TILE) -> bytes:
    """Images (k, S, S, C) uint8 side by side as WebP, in tiles of ``side`` pixels, or S if that is smaller."""
    side = min(side, pixels.shape[1])
    picture = Image.new("RGB", (side * len(pixels), side))
    for i, image in enumerate(pixels):
        tile = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
        picture.paste(tile.resize((side, side), Image.Resampling.BILINEAR), (i * side, 0))
    content = io.BytesIO()
    picture.save(content, "webp", quality=85)
    return content.getvalue()


def same_samples(several: Sequence[Predictions]) -> bool:
    """Whether all are for the same samples in the same order, and can be compared pairwise."""
    first = several[0]
    return all(
        np.array_equal(first.ids, other.ids) and np.array_equal(first.labels, other.labels) for other in several[1:]
    )
