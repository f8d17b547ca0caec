"""What an epoch of batches holds, and what its order and pixels depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.data.augment import HorizontalFlip, RandomCrop
from bench.data.loader import Batch, BatchLoader

SIDE, CHANNELS, STORED = 6, 3, 80
PIXELS = np.random.default_rng(0).integers(0, 256, (STORED, SIDE, SIDE, CHANNELS), dtype=np.uint8)
LABELS = np.arange(STORED)  # a sample's label is its position, so that it can be told apart
MEAN, STD = np.array([120.0, 110.0, 100.0]), np.array([60.0, 50.0, 40.0])
AUGMENT = (RandomCrop(2), HorizontalFlip())

indices = st.lists(st.integers(0, STORED - 1), min_size=1, max_size=60, unique=True).map(np.array)
batch_sizes = st.integers(1, 70)
seeds = st.integers(0, 2**31)


def make(index=None, batch_size=16, transforms=(), shuffle_seed=None) -> BatchLoader:
    index = np.arange(STORED) if index is None else index
    return BatchLoader(PIXELS, LABELS, index, MEAN, STD, batch_size, transforms, shuffle_seed)


def epoch(loader: BatchLoader, number: int | None = None) -> Batch:
    """All batches of an epoch as one."""
    if number is not None:
        loader.sampler.set_epoch(number)
    images, labels = zip(*loader, strict=True)
    return Batch(torch.cat(images), torch.cat(labels))


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def normalised(pixels: np.ndarray) -> Tensor:
    """The definition, in float64: (N, S, S, C) → (N, C, S, S)."""
    return torch.from_numpy(((pixels - MEAN) / STD).transpose(0, 3, 1, 2)).float()


@settings(deadline=None)
@given(indices, batch_sizes, st.none() | seeds)
def test_every_sample_comes_exactly_once_an_epoch(index, batch_size, shuffle_seed):
    loader = make(index, batch_size, AUGMENT if shuffle_seed is not None else (), shuffle_seed)
    for _ in range(2):
        assert torch.equal(epoch(loader).labels.sort().values, torch.from_numpy(np.sort(index)))


@settings(deadline=None)
@given(indices, batch_sizes, st.none() | seeds)
def test_all_batches_are_full_but_the_last_which_holds_the_rest(index, batch_size, shuffle_seed):
    loader = make(index, batch_size, shuffle_seed=shuffle_seed)
    sizes = [len(batch.labels) for batch in loader]
    assert len(loader) == len(sizes)
    assert set(sizes[:-1]) <= {batch_size}
    assert 1 <= sizes[-1] <= batch_size
    assert sum(sizes) == len(index)


@settings(deadline=None, max_examples=30)
@given(indices, batch_sizes)
def test_without_a_seed_the_order_is_that_of_the_index_and_pixels_are_only_normalised(index, batch_size):
    images, labels = epoch(make(index, batch_size))
    assert torch.equal(labels, torch.from_numpy(index))
    torch.testing.assert_close(images, normalised(PIXELS[index]), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds, batch_sizes)
def test_shuffled_images_stay_with_their_labels(seed, batch_size):
    images, labels = epoch(make(batch_size=batch_size, shuffle_seed=seed))
    torch.testing.assert_close(images, normalised(PIXELS[labels]), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    mean=st.lists(st.floats(0, 255), min_size=3, max_size=3),
    std=st.lists(st.floats(5, 130), min_size=3, max_size=3),
)
def test_values_are_pixels_less_mean_over_std(mean, std):
    mean, std = np.array(mean), np.array(std)
    loader = BatchLoader(PIXELS, LABELS, np.arange(STORED), mean, std, 32)
    expected = torch.from_numpy(((PIXELS - mean) / std).transpose(0, 3, 1, 2))
    images = epoch(loader).images
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.double(), expected, rtol=1e-6, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, 1000), batch_sizes, batch_sizes)
def test_order_and_pixels_do_not_depend_on_the_batch_size(seed, number, one, other):
    assert same(
        epoch(make(batch_size=one, transforms=AUGMENT, shuffle_seed=seed), number),
        epoch(make(batch_size=other, transforms=AUGMENT, shuffle_seed=seed), number),
    )


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_an_epoch_resumed_at_equals_the_same_epoch_run_to(seed):
    from_the_start = make(transforms=AUGMENT, shuffle_seed=seed)
    for number in range(3):
        epoch(from_the_start, number)
    assert same(epoch(from_the_start, 3), epoch(make(transforms=AUGMENT, shuffle_seed=seed), 3))


def test_an_abandoned_epoch_starts_over():
    loader = make(transforms=AUGMENT, shuffle_seed=4)
    next(iter(loader))
    assert same(epoch(loader), epoch(make(transforms=AUGMENT, shuffle_seed=4)))


def test_global_random_state_is_neither_read_nor_moved():
    loader = make(transforms=AUGMENT, shuffle_seed=4)
    torch.manual_seed(1)
    first = epoch(loader)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(first, epoch(loader))
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None, max_examples=30)
@given(seeds, st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True))
def test_epochs_differ_in_order_and_augmentation(seed, numbers):
    loader = make(transforms=AUGMENT, shuffle_seed=seed)
    one, other = (epoch(loader, number) for number in numbers)
    assert not torch.equal(one.labels, other.labels)
    by_sample = one.images[one.labels.argsort()], other.images[other.labels.argsort()]
    assert not torch.equal(*by_sample)


@given(st.lists(seeds, min_size=2, max_size=2, unique=True))
@settings(deadline=None, max_examples=30)
def test_seeds_differ_in_order_and_augmentation(pair):
    one, other = (epoch(make(transforms=AUGMENT, shuffle_seed=seed)) for seed in pair)
    assert not torch.equal(one.labels, other.labels)
    assert not torch.equal(one.images[one.labels.argsort()], other.images[other.labels.argsort()])


def test_seed_0_shuffles():
    assert not torch.equal(epoch(make(shuffle_seed=0)).labels, torch.arange(STORED))


def test_seed_and_epoch_do_not_stand_for_each_other():
    one, other = epoch(make(shuffle_seed=1), 2), epoch(make(shuffle_seed=2), 1)
    assert not torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("shuffle_seed", [None, 0])
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_channels_last_without_a_copy(shuffle_seed, channels):
    loader = BatchLoader(
        PIXELS[..., :channels].copy(),
        LABELS,
        np.arange(STORED),
        MEAN[:channels],
        STD[:channels],
        16,
        AUGMENT if shuffle_seed is not None else (),
        shuffle_seed,
    )
    for images, labels in loader:
        assert images.shape == (len(labels), channels, SIDE, SIDE)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


def test_stored_pixels_are_left_as_they_are():
    kept = PIXELS.copy()
    loader = make(transforms=(RandomCrop(2, "zero"), *AUGMENT), shuffle_seed=0)
    for images, _ in loader:
        images.zero_()
    assert np.array_equal(PIXELS, kept)


def test_an_empty_split_has_no_batches():
    loader = make(np.arange(0))
    assert len(loader) == 0
    assert list(loader) == []
