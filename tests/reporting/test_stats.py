import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from bench.reporting import stats


def answers(*accuracies, n=2000, seed=0):
    """(s, n) booleans, independent."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.random(n) < accuracy for accuracy in accuracies])


def test_the_interval_of_one_seed_is_scipys_bootstrap_over_samples():
    correct = answers(0.8, n=500)
    theirs = scipy.stats.bootstrap(
        (correct[0],), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(1)
    ).confidence_interval
    assert stats.interval(correct) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_interval_over_seeds_and_samples_is_that_of_drawing_both_one_by_one():
    correct = answers(0.7, 0.8, 0.9, n=200)
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        seeds, samples = rng.integers(0, 3, 3), rng.integers(0, 200, 200)
        mean = correct[:, samples].mean()
        means.append(mean + (3 / 2) ** 0.5 * (correct[np.ix_(seeds, samples)].mean() - mean))
    between = correct.mean(axis=1).var(ddof=1) / 3
    freedom = np.var(means) ** 2 / (between**2 / 2)  # Satterthwaite
    longer = scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975)
    expected = correct.mean() + longer * (np.quantile(means, [0.025, 0.975]) - correct.mean())
    assert stats.interval(correct) == pytest.approx(np.clip(expected, 0, 1), abs=0.03)
    alone = stats.interval(correct[1:2])
    assert alone.high - alone.low < stats.interval(correct).high - stats.interval(correct).low


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = sum(
        low <= 0.8 <= high for low, high in (stats.interval(answers(0.8, n=300, seed=seed)) for seed in range(200))
    )
    assert 180 <= covered <= 199


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("deviation", [0.002, 0.02])
def test_with_few_seeds_the_interval_covers_the_truth_and_equal_recipes_are_seldom_told_apart(
    monkeypatch, seeds, deviation
):
    monkeypatch.setattr(stats, "DRAWS", 1000)
    rng, covered, apart, runs = np.random.default_rng(0), 0, 0, 120

    def train():
        return np.clip(rng.normal(0.8, deviation, seeds), 0, 1)

    for seed in range(runs):
        low, high = stats.interval(answers(*train(), n=400, seed=seed))
        covered += low <= 0.8 <= high
        pair = answers(*train(), *train(), n=400, seed=seed)
        apart += stats.paired_bootstrap(pair[:seeds], pair[seeds:]) < 0.05
    assert covered >= 0.89 * runs  # 95 % less three standard errors
    assert apart <= 0.11 * runs


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_single_seed_is_seldom_told_apart_from_several_of_the_same_recipe(monkeypatch, seeds):
    monkeypatch.setattr(stats, "DRAWS", 1000)
    rng, apart, covered, runs = np.random.default_rng(0), 0, 0, 200
    for seed in range(runs):
        one, *several = np.clip(rng.normal(0.8, 0.03, 1 + seeds), 0, 1)  # seeds differ more than draws of samples do
        pair = answers(one, *several, n=1000, seed=seed)
        apart += stats.compare(pair[:1], pair[1:]) < 0.05
        low, high = stats.difference(pair[:1], pair[1:])
        covered += low <= 0 <= high
    # 5 % and three standard errors; without the single seed's own variation it would be a fifth or more
    assert apart <= 0.1 * runs
    assert covered >= 0.9 * runs


def test_a_single_seed_is_told_apart_from_several_where_the_recipe_differs():
    assert stats.compare(answers(0.9), answers(0.80, 0.81, 0.79, seed=1)) < 0.05


def test_mcnemars_worked_example():
    first = np.array([True] * 10 + [False] * 2 + [True] * 50)  # 10 and 2 samples that only one gets right
    second = np.array([False] * 10 + [True] * 2 + [True] * 50)
    result = stats.mcnemar(first, second)
    assert (result.only_first, result.only_second) == (10, 2)
    assert result.p == pytest.approx(2 * sum(scipy.stats.binom.pmf(k, 12, 0.5) for k in range(3)))  # 158 / 4096
    assert result.p == pytest.approx(158 / 4096)
    assert stats.mcnemar(first, first).p == 1.0


def test_the_paired_bootstrap_of_single_seeds_agrees_with_mcnemars_test():
    for second in (0.80, 0.82, 0.84):
        first, other = answers(0.8, n=1000, seed=1), answers(second, n=1000, seed=2)
        exact = stats.mcnemar(first[0], other[0]).p
        assert stats.paired_bootstrap(first, other) == pytest.approx(exact, abs=0.06)


def test_the_paired_bootstrap_tells_what_differs_and_not_what_is_the_same():
    assert stats.paired_bootstrap(answers(0.80, 0.81, 0.80), answers(0.9, 0.9, 0.9, seed=1)) < 0.001
    same = answers(0.8, 0.8, 0.8)
    assert stats.paired_bootstrap(same, same) == 1.0


def test_single_seeds_are_compared_by_mcnemars_test_and_several_by_the_bootstrap():
    one, other = answers(0.8), answers(0.82, seed=1)
    assert stats.compare(one, other) == stats.mcnemar(one[0], other[0]).p
    several = answers(0.82, 0.82, seed=1)
    assert stats.compare(one, several) == stats.paired_bootstrap(one, several)


def test_holms_worked_example():
    # Holm 1979: the smallest times 4, the next times 3, and never less than one before it
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    adjusted = stats.holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    assert max(adjusted) <= 1
    for (p, a), (q, b) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (p <= q) == (a <= b) or a == b


def test_the_calibration_error_is_torchmetrics():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.4), size=3000)
    labels = rng.integers(0, 5, 3000)
    predicted = probabilities.argmax(axis=1)
    result = stats.calibration(probabilities.max(axis=1), predicted == labels)
    theirs = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), num_classes=5, n_bins=stats.BINS, norm="l1"
    )
    assert result.ece == pytest.approx(theirs.item(), abs=1e-5)
    assert result.count.sum() == 3000
    filled = result.count > 0
    assert (result.accuracy[filled] * result.count[filled]).sum() == pytest.approx((predicted == labels).sum())


def test_a_network_that_is_sure_and_right_has_no_calibration_error():
    result = stats.calibration(np.ones(10), np.ones(10, bool))
    assert result.ece == 0
    assert result.count[-1] == 10
    assert np.isnan(result.accuracy[0])


@given(st.integers(2, 6), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_confusion_and_accuracy_in_classes_are_scikit_learns(classes, n, seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    matrix = stats.confusion(labels, predicted, classes)
    assert np.array_equal(matrix, sklearn.metrics.confusion_matrix(labels, predicted, labels=range(classes)))
    ours = stats.per_class(matrix)
    there = matrix.sum(axis=1) > 0
    recall = sklearn.metrics.recall_score(labels, predicted, labels=range(classes), average=None, zero_division=0)
    assert ours[there] == pytest.approx(recall[there])
    assert np.isnan(ours[~there]).all()


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.4, 0.7]])
def test_mean_and_deviation_are_scipys(values):
    stat = stats.mean_std(values)
    assert stat.mean == pytest.approx(np.mean(values))
    assert stat.std == (None if len(values) == 1 else pytest.approx(scipy.stats.tstd(values)))


def test_the_interval_of_a_difference_is_that_of_the_paired_samples():
    rng = np.random.default_rng(3)
    both = rng.random((1, 2000)) < 0.5
    first, second = both | (rng.random((1, 2000)) < 0.1), both
    low, high = stats.difference(first, second)
    gain = (first.astype(int) - second)[0]
    half = 1.96 * gain.std() / np.sqrt(2000)  # what the normal approximation says of paired samples
    assert [low, high] == pytest.approx([gain.mean() - half, gain.mean() + half], abs=0.002)
    assert stats.difference(first, first) == (0, 0)
