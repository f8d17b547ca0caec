"""Statistics of predictions: intervals, paired tests, calibration, confusion.

``correct`` is always a boolean array (s, n): which of the same n test samples each of s seeds classified correctly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats

LEVEL = 0.95
"""Level of confidence intervals; tests are at 1 - LEVEL."""
BINS = 15
"""Bins of the reliability diagram (Guo et al. 2017, section 5)."""


class Stat(NamedTuple):
    """Mean and sample standard deviation (n - 1) over ``n`` values; ``std`` is None for one value."""

    mean: float
    std: float | None
    n: int


class Interval(NamedTuple):
    """A confidence interval of an accuracy, or of a difference of two, fractions."""

    low: float
    high: float


class McNemar(NamedTuple):
    """Samples that only one of two networks gets right, and the p-value of the exact test that both err alike."""

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Calibration:
    """For each bin of confidence, (bins,): ``count``, mean ``confidence`` and ``accuracy``, NaN if it is empty; and
    ``ece``, the expected calibration error, a fraction.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def mean_std(values: Sequence[float]) -> Stat:
    """Mean and sample standard deviation of one or more values."""
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def interval(correct: np.ndarray) -> Interval:
    """The interval of the mean accuracy: Wilson's (1927), which with one seed covers the variation of samples alone.

    Several seeds have answered the same samples: the number of samples is replaced by that of independent ones with
    the variance of :func:`_estimate`, and the normal quantile by Student's (Korn, Graubard 1998; Dean, Pagano 2015).
    """
    mean, variance, freedom = _estimate([correct])
    n = mean * (1 - mean) / variance if variance else correct.shape[1]
    squared = _quantile(freedom) ** 2 / n
    centre = (mean + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (mean * (1 - mean) + squared / 4)) / (1 + squared)
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0))


def difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """The interval of the first mean accuracy minus the second, (s, n) and (t, n) on the same samples, by Student's t,
    see :func:`_estimate`; between single seeds never narrower than that of :func:`mcnemar`, so that it has 0 in it
    unless that test, uncorrected, tells the two apart.
    """
    mean, variance, freedom = _estimate([first, second])
    half = _quantile(freedom) * math.sqrt(variance)
    low, high = mean - half, mean + half
    if len(first) == len(second) == 1:
        exact = mcnemar(first[0], second[0])
        differing = exact.only_first + exact.only_second
        if differing:  # Clopper, Pearson 1934: which share of those that differ is the first's
            share = scipy.stats.binomtest(exact.only_first, differing).proportion_ci(LEVEL)
            scale = differing / first.shape[1]
            low, high = min(low, (2 * share.low - 1) * scale), max(high, (2 * share.high - 1) * scale)
    return Interval(max(low, -1.0), min(high, 1.0))


def paired_test(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of equal mean accuracies, (s, n) and (t, n), by Student's t, see :func:`_estimate`."""
    mean, variance, freedom = _estimate([first, second])
    if mean == 0:
        return 1.0
    return float(2 * scipy.stats.t.sf(abs(mean) / math.sqrt(variance), freedom))


class _Estimate(NamedTuple):
    """A mean accuracy or a difference of two, its variance, and the degrees of freedom of that."""

    mean: float
    variance: float
    freedom: float


def _estimate(groups: Sequence[np.ndarray]) -> _Estimate:
    """The mean accuracy of one group, (s, n), or that of the first minus the second's, for other seeds and samples.

    Which samples there are, and what each seed makes of them, shows in how the seeds' mean varies over samples; what
    seeds differ in beyond that, in a two-way analysis of variance (Searle, Casella, McCulloch 1992, section 4.3). A
    single seed is taken to vary as the other group's seeds do; without others the variance covers samples alone.
    Degrees of freedom after Satterthwaite 1946: the variance between a few seeds is uncertain, that over samples is
    not. Of equal recipes up to 7 % are told apart at a level of 5 %, up to an eighth if one seed is compared with two.
    The variance of a difference, not its mean, is that with half a sample added to each cell of the 2×2 table (Agresti,
    Min 2005), so that it is not 0 where few samples differ, or none.
    """
    over_samples = groups[0].mean(axis=0) - (groups[1].mean(axis=0) if len(groups) > 1 else 0.0)  # (n,)
    added = len(groups) - 1  # to the sum of squares: of two samples more, a half each is +1 and -1
    n = len(over_samples) + 2 * added
    variance = float((over_samples**2).sum() + added - over_samples.sum() ** 2 / n) / n**2
    doubt = 0.0
    several = [group for group in groups if len(group) > 1]
    # a single seed's variance is the mean of the others', so each of those counts once more, by this share
    borrowed = (len(groups) - len(several)) / max(1, len(several))
    for group in several:
        s, n = group.shape
        accuracies = group.mean(axis=1)  # (s,)
        rest = group - group.mean(axis=0) - accuracies[:, None] + group.mean()
        noise = float((rest**2).sum()) / ((s - 1) * max(1, n - 1)) / n  # in an accuracy, of a seed's own errors
        between, weight = float(accuracies.var(ddof=1)), 1 / s + borrowed
        variance += weight * max(0.0, between - noise)
        doubt += (weight * between) ** 2 / (s - 1)
    # between seeds there may be less variance than their samples' noise has, but no fewer degrees of freedom than seeds
    least = min((len(group) - 1 for group in several), default=0)
    return _Estimate(float(over_samples.mean()), variance, max(least, variance**2 / doubt) if doubt else math.inf)


def _quantile(freedom: float) -> float:
    """Student's, for intervals of LEVEL."""
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test of two networks on the same samples, (n,) booleans each (McNemar 1947; Dietterich 1998)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p)


def compare(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of equal accuracy: McNemar's exact test between single seeds, which covers these two networks alone,
    else :func:`paired_test`, in which a single seed is taken to vary as the other's seeds do.
    """
    if len(first) == len(second) == 1:
        return mcnemar(first[0], second[0]).p
    return paired_test(first, second)


def holm(p_values: Sequence[float], tests: int | None = None) -> list[float]:
    """p-values of a family of so many ``tests`` (by default of these alone), adjusted so that the chance of any false
    rejection stays below the level (Holm 1979).
    """
    adjusted = [1.0] * len(p_values)
    reached = 0.0
    for position, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, ((tests or len(p_values)) - position) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def calibration(confidence: np.ndarray, correct: np.ndarray) -> Calibration:
    """Reliability over equal bins of the predicted class's probability, both (n,) (Guo et al. 2017, eq. 3)."""
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, weights=confidence, minlength=BINS) / count
        accuracy = np.bincount(place, weights=correct, minlength=BINS) / count
    gaps = np.where(count > 0, np.abs(accuracy - mean), 0.0)
    return Calibration(count, mean, accuracy, float((gaps * count).sum() / count.sum()))


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """How many samples of each class (row) were predicted as each class (column): (num_classes, num_classes)."""
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def per_class(matrix: np.ndarray) -> np.ndarray:
    """Accuracy for each class of a confusion matrix, (num_classes,); NaN for a class without samples."""
    with np.errstate(invalid="ignore"):
        return np.diag(matrix) / matrix.sum(axis=1)
