"""Stratified splits that do not depend on the run's seed."""

from __future__ import annotations

import numpy as np

SPLIT_SEED = 0
"""Every split is drawn with this seed, whatever the run's, so that all runs have the same validation images."""


def hold_out(labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``size`` of the samples with (n,) ``labels``, each class in proportion.

    Returns:
        Positions of the others and of those drawn, both ascending; together every position once.

    Raises:
        ValueError: ``size`` is negative, or it or the rest is too small for one sample per class.
    """
    if not isinstance(size, int):
        raise ValueError(f"cannot hold out {size} samples: must be a whole number")
    n, classes = len(labels), len(np.unique(labels))
    if size == 0:
        return np.arange(n), np.arange(0)
    if not classes <= size <= n - classes:
        raise ValueError(
            f"cannot hold out {size} of {n} samples in {classes} classes: allowed are 0 and {classes} … {n - classes}"
        )
    names, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(f"cannot hold out samples of class {names[counts.argmin()]}: it has only one")
    from sklearn.model_selection import train_test_split

    rest, drawn = train_test_split(np.arange(n), test_size=size, stratify=labels, random_state=SPLIT_SEED)
    _swap_in(labels, names, drawn, rest)
    _swap_in(labels, names, rest, drawn)
    return np.sort(rest), np.sort(drawn)


def _swap_in(labels: np.ndarray, names: np.ndarray, part: np.ndarray, other: np.ndarray) -> None:
    """Give ``part`` a sample of each class it lacks, in exchange for one of its largest class."""
    for name in names:
        if not (labels[part] == name).any():
            wanted = np.flatnonzero(labels[other] == name)[0]
            classes, counts = np.unique(labels[part], return_counts=True)
            spare = np.flatnonzero(labels[part] == classes[counts.argmax()])[0]
            part[spare], other[wanted] = other[wanted], part[spare]
