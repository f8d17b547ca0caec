"""Properties that every held-out part has."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.data.splits import hold_out


@st.composite
def labelled(draw):
    """Labels of 2 to 6 classes, each with 2 to 25 samples in any order, and a size that can be held out of them."""
    counts = draw(st.lists(st.integers(2, 25), min_size=2, max_size=6))
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(draw(st.integers(0, 2**31))).shuffle(labels)
    return labels, draw(st.integers(len(counts), len(labels) - len(counts)))


@given(labelled())
def test_parts_are_disjoint_complete_ascending_and_of_the_size_asked_for(case):
    labels, size = case
    rest, drawn = hold_out(labels, size)
    assert len(drawn) == size
    assert np.array_equal(np.sort(np.concatenate([rest, drawn])), np.arange(len(labels)))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(drawn) > 0).all()


@given(labelled())
def test_each_class_is_drawn_in_proportion_to_within_one_sample(case):
    labels, size = case
    share = np.bincount(labels) * size / len(labels)
    assume((share >= 1).all() and (np.bincount(labels) - share >= 1).all())
    _, drawn = hold_out(labels, size)
    classes = labels.max() + 1
    assert (np.abs(np.bincount(labels[drawn], minlength=classes) - share) < 1 + 1e-9).all()


@given(labelled())
def test_each_class_has_a_sample_on_both_sides_however_rare_it_is(case):
    labels, size = case
    rest, drawn = hold_out(labels, size)
    assert set(labels[rest]) == set(labels[drawn]) == set(labels)


def test_a_class_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="samples of class 1: it has only one"):
        hold_out(np.array([0] * 9 + [1]), 4)


@settings(max_examples=25)
@given(labelled(), st.integers(0, 2**31), st.integers(0, 2**31))
def test_split_neither_reads_nor_moves_the_global_random_state(case, one, other):
    np.random.seed(one)
    first = hold_out(*case)
    np.random.seed(other)
    second = hold_out(*case)
    after = np.random.random()
    np.random.seed(other)
    assert after == np.random.random()
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@given(st.lists(st.integers(0, 4), max_size=20))
def test_size_0_holds_out_nothing(labels):
    rest, drawn = hold_out(np.array(labels, dtype=np.int64), 0)
    assert np.array_equal(rest, np.arange(len(labels)))
    assert len(drawn) == 0
    assert drawn.dtype == rest.dtype == np.int64  # usable as an index


def test_samples_are_drawn_at_random_from_the_whole():
    _, drawn = hold_out(np.tile(np.arange(4), 250), 100)
    assert drawn.min() < 100
    assert drawn.max() > 900
    assert len(np.unique(np.diff(drawn))) > 5


@pytest.mark.parametrize("size", [-1, 1, 2, 28, 30, 31])
def test_a_size_without_room_for_each_class_raises_naming_it_and_what_is_allowed(size):
    labels = np.repeat(np.arange(3), 10)
    with pytest.raises(ValueError, match=rf"hold out {size} of 30 .*allowed are 0 and 3 … 27"):
        hold_out(labels, size)


@pytest.mark.parametrize("size", [3, 27])
def test_the_smallest_and_the_largest_size_give_each_class_a_sample_on_both_sides(size):
    labels = np.repeat(np.arange(3), 10)
    rest, drawn = hold_out(labels, size)
    assert set(labels[rest]) == set(labels[drawn]) == {0, 1, 2}
