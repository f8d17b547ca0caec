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
DRAWS = 10_000
"""Bootstrap samples."""
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
    """A bootstrap interval of the mean accuracy over seeds and samples, which are drawn independently.

    Samples are drawn jointly for all seeds, which share them (Owen 2007, "The pigeonhole bootstrap"). With one seed the
    interval covers only the variation of samples. As a few seeds say little about the variation of seeds, it is wider
    than the percentiles by the ratio of Student's quantile to the normal one, see :func:`_freedom`.
    """
    (draws,) = _resampled([correct])
    low, high = _percentiles(draws, correct.mean(), _freedom(draws, [correct]))
    return Interval(max(low, 0.0), min(high, 1.0))


def difference(first: np.ndarray, second: np.ndarray) -> Interval:
    """The interval of the first mean accuracy minus the second, (s, n) and (t, n) on the same samples: seeds are drawn
    separately, samples jointly; otherwise like :func:`interval`. A single seed against several is taken to vary as they
    do.
    """
    one, other = _resampled([first, second])
    low, high = _percentiles(one - other, first.mean() - second.mean(), _freedom(one - other, [first, second]))
    return Interval(max(low, -1.0), min(high, 1.0))


def _percentiles(draws: np.ndarray, centre: float, freedom: float) -> Interval:
    longer = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom) / scipy.stats.norm.ppf((1 + LEVEL) / 2)
    low, high = centre + longer * (np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - centre)
    return Interval(float(low), float(high))


def _freedom(draws: np.ndarray, groups: Sequence[np.ndarray]) -> float:
    """Degrees of freedom of the variance of ``draws``, after Satterthwaite 1946: its between-seed parts are estimated
    from a few seeds each, the rest from many samples. Infinite if all groups are single seeds.
    """
    several = [group for group in groups if len(group) > 1]
    # a single seed's variance is taken to be the mean of the others', so each of those counts once more, by this share
    borrowed = (len(groups) - len(several)) / max(1, len(several))
    between = [(_over_seeds([group]) * (1 / len(group) + borrowed), len(group) - 1) for group in several]
    doubt = sum(variance**2 / freedom for variance, freedom in between)
    return float(draws.var() ** 2 / doubt) if doubt else math.inf


def _over_seeds(groups: Sequence[np.ndarray]) -> float:
    """The variance of accuracy over seeds, the mean of those groups that have several; 0 if none has."""
    return float(np.mean([group.mean(axis=1).var(ddof=1) for group in groups if len(group) > 1] or [0.0]))


def paired_bootstrap(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of equal mean accuracies, (s, n) and (t, n), with seeds drawn separately and samples jointly:
    Student's t with the bootstrap standard error and the degrees of freedom of :func:`_freedom`.
    """
    one, other = _resampled([first, second])
    observed, draws = abs(first.mean() - second.mean()), one - other
    if observed == 0:
        return 1.0
    error = draws.std()
    return float(2 * scipy.stats.t.sf(observed / error, _freedom(draws, [first, second]))) if error else 0.0


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test of two networks on the same samples, (n,) booleans each (McNemar 1947; Dietterich 1998)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p)


def compare(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of equal accuracy: McNemar's exact test between single seeds, which covers these two networks alone,
    else the paired bootstrap, in which a single seed is taken to vary as the other's seeds do.
    """
    if len(first) == len(second) == 1:
        return mcnemar(first[0], second[0]).p
    return paired_bootstrap(first, second)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of a family of tests, adjusted so that the chance of any false rejection stays below the level
    (Holm 1979).
    """
    adjusted = [1.0] * len(p_values)
    reached = 0.0
    for position, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - position) * p_values[i]))
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


def _resampled(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Mean accuracies of each group, (s, n) booleans, in DRAWS bootstrap samples: (DRAWS,) each.

    Samples with the same pattern of right and wrong over all seeds of all groups are interchangeable, so drawing n
    samples is a multinomial draw from the few distinct patterns. The mean of s seeds resampled from s varies less than
    that of s new seeds, by (s - 1) / s, so its distance from the mean of all is scaled up (Rao, Wu 1988, section 2).
    A single seed is taken to vary as those of the other groups do.
    """
    generator = np.random.default_rng(0)
    patterns, counts = np.unique(np.concatenate(groups), axis=1, return_counts=True)
    n = counts.sum()
    shares = generator.multinomial(n, counts / n, size=DRAWS) / n  # (DRAWS, patterns)
    means = []
    start = 0
    for group in groups:
        rows = patterns[start : start + len(group)].astype(float)
        start += len(group)
        accuracies = shares @ rows.T  # (DRAWS, s), for each seed on the drawn samples
        seeds = generator.multinomial(len(group), np.full(len(group), 1 / len(group)), size=DRAWS) / len(group)
        drawn, all_seeds, s = (accuracies * seeds).sum(axis=1), accuracies.mean(axis=1), len(group)
        means.append(all_seeds + math.sqrt(s / max(1, s - 1)) * (drawn - all_seeds))
        if s == 1 and (variance := _over_seeds(groups)):
            means[-1] = means[-1] + generator.normal(0, math.sqrt(variance), DRAWS)
    return means
