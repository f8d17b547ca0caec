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


def recipe(seeds, n, rng, deviation, difficulty):
    """(seeds, n) answers of equally good networks but for what the seed does; the same samples are difficult to all."""
    return rng.random((seeds, n)) < np.clip(difficulty + rng.normal(0, deviation, (seeds, 1)), 0, 1)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (20, 20), (161, 200), (9_177, 10_000)])
def test_the_interval_of_one_seed_is_wilsons(right, n):
    theirs = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert stats.interval(np.arange(n)[None] < right) == pytest.approx((theirs.low, theirs.high))


def test_several_seeds_that_are_always_right_are_no_surer_than_their_samples_are_many():
    assert stats.interval(np.ones((3, 20), bool)) == stats.interval(np.ones((1, 20), bool))


def test_the_interval_over_seeds_is_students_where_samples_are_plenty():
    accuracies = np.array([0.79, 0.80, 0.82])
    theirs = scipy.stats.t.interval(0.95, 2, accuracies.mean(), scipy.stats.sem(accuracies))
    # Wilson's is drawn towards one half
    assert stats.interval(answers(*accuracies, n=500_000)) == pytest.approx(theirs, abs=0.005)


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 5), (1, 3)])
@pytest.mark.parametrize("deviation", [0, 0.03])
def test_the_variance_is_that_of_other_seeds_and_samples(seeds, deviation):
    rng, estimates = np.random.default_rng(0), []
    for _ in range(400):
        difficulty = rng.beta(0.8, 0.2, 1000)  # most samples are easy or hopeless, to all networks
        pair = [recipe(s, 1000, rng, deviation, difficulty) for s in seeds]
        estimates.append(stats._estimate(pair)[:2])
    means, variances = np.transpose(estimates)
    # a little more: where seeds do not differ, the variance between them that chance makes up is never negative
    assert 0.8 < variances.mean() / means.var() < 1.6


@pytest.mark.parametrize(
    ("seeds", "accuracy", "deviation"),
    [(1, 0.8, 0), (1, 0.97, 0), *itertools.product((2, 3, 5), (0.8,), (0.002, 0.03))],
)
def test_the_interval_covers_the_truth_and_equal_recipes_are_seldom_told_apart(seeds, accuracy, deviation):
    rng, covered, apart, runs = np.random.default_rng(0), 0, 0, 300
    for _ in range(runs):
        difficulty = rng.beta(accuracy, 1 - accuracy, 400)
        one, other = (recipe(seeds, 400, rng, deviation, difficulty) for _ in range(2))
        low, high = stats.interval(one)
        covered += low <= accuracy <= high
        apart += stats.compare(one, other) < 0.05
    assert covered >= 0.91 * runs  # 95 % less three standard errors
    assert apart <= 0.09 * runs


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_single_seed_is_seldom_told_apart_from_several_of_the_same_recipe(seeds):
    rng, apart, covered, runs = np.random.default_rng(0), 0, 0, 200
    for seed in range(runs):
        one, *several = np.clip(rng.normal(0.8, 0.03, 1 + seeds), 0, 1)  # seeds differ more than draws of samples do
        pair = answers(one, *several, n=1000, seed=seed)
        apart += stats.compare(pair[:1], pair[1:]) < 0.05
        low, high = stats.difference(pair[:1], pair[1:])
        covered += low <= 0 <= high
    # 5 %, with two seeds a tenth, and three standard errors; without the single seed's own variation a fifth or more
    assert apart <= (0.1 if seeds > 2 else 0.15) * runs
    assert covered >= (0.9 if seeds > 2 else 0.85) * runs


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


def test_the_paired_test_of_single_seeds_agrees_with_mcnemars():
    for second in (0.80, 0.82, 0.84):
        first, other = answers(0.8, n=1000, seed=1), answers(second, n=1000, seed=2)
        exact = stats.mcnemar(first[0], other[0]).p
        assert stats.paired_test(first, other) == pytest.approx(exact, abs=0.06)


def test_the_paired_test_tells_what_differs_and_not_what_is_the_same():
    assert stats.paired_test(answers(0.80, 0.81, 0.80), answers(0.9, 0.9, 0.9, seed=1)) < 0.01
    same = answers(0.8, 0.8, 0.8)
    assert stats.paired_test(same, same) == 1.0


def test_single_seeds_are_compared_by_mcnemars_test_and_several_by_students():
    one, other = answers(0.8), answers(0.82, seed=1)
    assert stats.compare(one, other) == stats.mcnemar(one[0], other[0]).p
    several = answers(0.82, 0.82, seed=1)
    assert stats.compare(one, several) == stats.paired_test(one, several)


@pytest.mark.parametrize("flipped", [0, 3])
def test_nearly_equal_answers_have_a_narrow_interval_of_their_difference(flipped):
    rng = np.random.default_rng(0)
    for _ in range(100):
        first = recipe(3, 540, rng, 0, rng.beta(0.9, 0.1, 540))
        second = first.copy()
        second[0, :flipped] ^= True
        low, high = stats.difference(first, second)
        assert -0.1 < low <= first.mean() - second.mean() <= high < 0.1


def test_holms_worked_example():
    # Holm 1979: the smallest times 4, the next times 3, and never less than one before it
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []
    assert stats.holm([0.01, 0.02], tests=6) == pytest.approx([0.06, 0.1])


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
    low, high = stats.difference(first, first)
    assert 0 < high == -low < 2 / 2000  # none differ of so many, of which one or two might have


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([61, 540, 10_000]))
def test_the_interval_of_single_seeds_has_no_difference_in_it_unless_the_test_tells_them_apart(one, other, n):
    first, second = np.zeros((2, 1, n), bool)
    first[0, :one], second[0, one : one + other] = True, True
    low, high = stats.difference(first, second)
    assert low <= (one - other) / n <= high
    assert low < high
    assert low <= 0 <= high or stats.compare(first, second) < 0.05 + 1e-9


def test_a_few_answers_that_all_seeds_share_are_no_proof():
    one, other = np.ones((2, 3, 60), bool)
    other[:, 0] = False  # the same sample, to each of three seeds
    assert stats.paired_test(one, other) > 0.2
    one[:, 1:], other[:, 1:] = True, False
    assert stats.paired_test(one, other) < 1e-6
