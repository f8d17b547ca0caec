"""What an epoch of batches holds, and what its order and pixels depend on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.data.augment import ColorJitter, CutMix, Cutout, HorizontalFlip, Mixup, RandomCrop, RandomResizedCrop
from bench.data.loader import Batch, BatchLoader, Shard
from bench.data.normalize import ChannelNormalize
from bench.data.pipeline import Pipeline

SIDE, CHANNELS, STORED = 6, 3, 80
PIXELS = np.random.default_rng(0).integers(0, 256, (STORED, SIDE, SIDE, CHANNELS), dtype=np.uint8)
LABELS = np.arange(STORED)  # a sample's label is its position, so that it can be told apart
NORMALIZE = ChannelNormalize()
NORMALIZE.fit(PIXELS, np.arange(STORED))
AUGMENT = (RandomCrop(SIDE, 2), HorizontalFlip(), ColorJitter(), Cutout(2))

indices = st.lists(st.integers(0, STORED - 1), min_size=1, max_size=60, unique=True).map(np.array)
batch_sizes = st.integers(1, 70)
seeds = st.integers(0, 2**31)


def make(index=None, batch_size=16, transforms=(), shuffle_seed=None, **more) -> BatchLoader:
    index = np.arange(STORED) if index is None else index
    pipeline = Pipeline(SIDE, NORMALIZE, transforms)
    pixels, labels = torch.from_numpy(PIXELS), torch.from_numpy(LABELS)
    return BatchLoader(pixels, labels, index, pipeline, batch_size, shuffle_seed, num_classes=STORED, **more)


def epoch(loader: BatchLoader, number: int | None = None) -> Batch:
    """All batches of an epoch as one."""
    if number is not None:
        loader.sampler.set_epoch(number)
    images, labels, targets, _ = zip(*loader, strict=True)
    return Batch(torch.cat(images), torch.cat(labels), None if targets[0] is None else torch.cat(targets))


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def normalised(pixels: np.ndarray) -> Tensor:
    """The definition, in float64: (N, S, S, C) → (N, C, S, S)."""
    seen = PIXELS.reshape(-1, CHANNELS).astype(np.float64)
    return torch.from_numpy(((pixels - seen.mean(0)) / seen.std(0)).transpose(0, 3, 1, 2)).float()


@given(indices, batch_sizes, st.none() | seeds)
def test_every_sample_comes_exactly_once_an_epoch(index, batch_size, shuffle_seed):
    loader = make(index, batch_size, AUGMENT if shuffle_seed is not None else (), shuffle_seed)
    for _ in range(2):
        assert torch.equal(epoch(loader).labels.sort().values, torch.from_numpy(np.sort(index)))


@given(indices, batch_sizes, st.none() | seeds)
def test_all_batches_are_full_but_the_last_which_holds_the_rest(index, batch_size, shuffle_seed):
    loader = make(index, batch_size, shuffle_seed=shuffle_seed)
    sizes = [len(batch.labels) for batch in loader]
    assert len(loader) == len(sizes)
    assert set(sizes[:-1]) <= {batch_size}
    if len(sizes) == 1 or batch_size == 1:
        assert 1 <= sizes[-1] <= batch_size + 1
    else:  # never a single one, of which batch norm on 1×1 maps has no variance
        assert 2 <= sizes[-1] <= batch_size + 1
    assert sum(sizes) == len(index)


@settings(max_examples=30)
@given(indices, batch_sizes)
def test_without_a_seed_the_order_is_that_of_the_index_and_pixels_are_only_normalised(index, batch_size):
    images, labels, targets, _ = epoch(make(index, batch_size))
    assert torch.equal(labels, torch.from_numpy(index))
    torch.testing.assert_close(images, normalised(PIXELS[index]), rtol=1e-6, atol=1e-6)
    assert targets is None


@settings(max_examples=30)
@given(seeds, batch_sizes)
def test_shuffled_images_stay_with_their_labels(seed, batch_size):
    images, labels, *_ = epoch(make(batch_size=batch_size, shuffle_seed=seed))
    torch.testing.assert_close(images, normalised(PIXELS[labels]), rtol=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(seeds, st.integers(0, 1000), batch_sizes, batch_sizes, st.sampled_from([None, Mixup(1.0), CutMix()]))
def test_order_and_pixels_do_not_depend_on_the_batch_size(seed, number, one, other, mix):
    first, second = (
        epoch(make(batch_size=size, transforms=AUGMENT, shuffle_seed=seed, mix=mix), number) for size in (one, other)
    )
    assert torch.equal(first.labels, second.labels)
    torch.testing.assert_close(first.images, second.images, rtol=1e-6, atol=1e-6)
    assert mix is None or torch.equal(first.targets, second.targets)


@settings(max_examples=20)
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


@pytest.mark.parametrize("mix", [None, Mixup(), CutMix()])
def test_global_random_state_is_neither_read_nor_moved(mix):
    loader = make(transforms=AUGMENT, shuffle_seed=4, mix=mix)
    torch.manual_seed(1)
    np.random.seed(1)
    first = epoch(loader)
    torch.manual_seed(2)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert same(first, epoch(loader))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)


@settings(max_examples=30)
@given(seeds, st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True))
def test_epochs_differ_in_order_and_augmentation(seed, numbers):
    loader = make(transforms=AUGMENT, shuffle_seed=seed)
    one, other = (epoch(loader, number) for number in numbers)
    assert not torch.equal(one.labels, other.labels)
    by_sample = one.images[one.labels.argsort()], other.images[other.labels.argsort()]
    assert not torch.equal(*by_sample)


@given(st.lists(seeds, min_size=2, max_size=2, unique=True))
@settings(max_examples=30)
def test_seeds_differ_in_order_and_augmentation(pair):
    one, other = (epoch(make(transforms=AUGMENT, shuffle_seed=seed)) for seed in pair)
    assert not torch.equal(one.labels, other.labels)
    assert not torch.equal(one.images[one.labels.argsort()], other.images[other.labels.argsort()])


def test_seed_0_shuffles():
    assert not torch.equal(epoch(make(shuffle_seed=0)).labels, torch.arange(STORED))


def test_seed_and_epoch_do_not_stand_for_each_other():
    one, other = epoch(make(shuffle_seed=1), 2), epoch(make(shuffle_seed=2), 1)
    assert not torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mix", [None, Mixup(), CutMix()])
@pytest.mark.parametrize("transforms", [(), AUGMENT, (RandomResizedCrop(SIDE),)], ids=["none", "many", "resized"])
def test_batches_are_channels_last_and_of_the_dtype_asked_for(transforms, mix, dtype):
    for images, labels, *_ in make(transforms=transforms, mix=mix, dtype=dtype, shuffle_seed=0):
        assert images.shape == (len(labels), CHANNELS, SIDE, SIDE)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.dtype == dtype
        assert labels.dtype == torch.int64


def test_batches_are_contiguous_if_asked_for():
    one, other = (
        make(shuffle_seed=0, memory_format=memory) for memory in (torch.channels_last, torch.contiguous_format)
    )
    for (images, *_), (same, *_) in zip(one, other, strict=True):
        assert same.is_contiguous()
        assert not same.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, same)


def test_a_dtype_only_rounds_what_32_bits_would_be():
    one, other = (
        epoch(make(transforms=AUGMENT, shuffle_seed=0, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(one.images.bfloat16(), other.images)


def test_stored_pixels_are_left_as_they_are():
    kept = PIXELS.copy()
    for images, *_ in make(transforms=(RandomCrop(SIDE, 2, "zero"), *AUGMENT), shuffle_seed=0, mix=Mixup()):
        images.zero_()
    for images, *_ in make():
        images.zero_()
    assert np.array_equal(PIXELS, kept)


def test_an_empty_split_has_no_batches():
    loader = make(np.arange(0))
    assert len(loader) == 0
    assert list(loader) == []


@settings(max_examples=20)
@given(seeds, batch_sizes)
def test_mixup_joins_two_samples_as_they_are_augmented_that_epoch(seed, batch_size):
    plain = epoch(make(transforms=AUGMENT, shuffle_seed=seed))
    by_label = dict(zip(plain.labels.tolist(), plain.images, strict=True))
    mixed = epoch(make(batch_size=batch_size, transforms=AUGMENT, shuffle_seed=seed, mix=Mixup(1.0)))
    assert mixed.targets.sum(1).tolist() == pytest.approx([1] * STORED)
    assert (mixed.targets.gather(1, mixed.labels[:, None]) >= 0.5 - 1e-6).all()
    for image, share in zip(mixed.images, mixed.targets, strict=True):
        expected = sum(
            weight.item() * by_label[label.item()] for label in share.nonzero()[:, 0] for weight in [share[label]]
        )
        torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


class ThreeToOne(Mixup):
    """Mixes all samples by the same shares."""

    def draw(self, draws):
        pairs = super().draw(draws)
        pairs[:, 1] = 0.75
        return pairs


def test_mixing_keeps_the_order_and_takes_every_sample_once_as_first_and_once_as_second():
    plain, mixed = (epoch(make(shuffle_seed=1, mix=mix)) for mix in (None, ThreeToOne()))
    assert torch.equal(mixed.labels, plain.labels)
    for share in (0.75, 0.25):
        of_whom = (mixed.targets - share).abs() < 1e-6
        rows = (mixed.targets == 1).sum()  # samples that are their own partner
        assert of_whom.sum() == STORED - rows
        assert of_whom.sum(0).max() == of_whom.sum(1).max() == 1
    assert mixed.targets.sum(0).tolist() == pytest.approx([1] * STORED)


processes = st.integers(1, 7)


@settings(max_examples=30)
@given(seeds, batch_sizes, st.integers(0, 100))
def test_a_loader_goes_on_where_another_stood(seed, batch_size, at):
    loader, resumed = (make(batch_size=batch_size, transforms=AUGMENT, shuffle_seed=seed) for _ in range(2))
    whole = list(loader)
    at = min(at, len(whole) - 1)
    batches = iter(loader)
    for _ in range(at):
        next(batches)
    resumed.load_state_dict(loader.state_dict())
    assert all(same(one, other) for one, other in zip(resumed, whole[at:], strict=True))
    assert len(list(resumed)) == len(whole)  # the next epoch is whole
    assert resumed.state_dict() == {"given": 0}


@settings(max_examples=30)
@given(seeds, st.integers(1, 20), processes, st.booleans())
def test_processes_together_see_what_one_process_sees(seed, batch_size, count, training):
    transforms, shuffle = (AUGMENT, seed) if training else ((), None)
    shards = [
        epoch(
            make(batch_size=batch_size, transforms=transforms, shuffle_seed=shuffle, shard=Shard(rank, count)),
            5 if training else None,
        )
        for rank in range(count)
    ]
    alone = epoch(
        make(batch_size=batch_size * count, transforms=transforms, shuffle_seed=shuffle), 5 if training else None
    )
    together = Batch(torch.cat([shard.images for shard in shards]), torch.cat([shard.labels for shard in shards]))
    assert torch.equal(together.labels.sort().values, alone.labels.sort().values)
    torch.testing.assert_close(
        together.images[together.labels.argsort()], alone.images[alone.labels.argsort()], rtol=1e-6, atol=1e-6
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [True, False])
def test_on_a_gpu_batches_are_made_there_and_equal_the_cpus(resident):
    device = torch.device("cuda", 0)
    on_cpu = epoch(make(transforms=AUGMENT, shuffle_seed=0, mix=CutMix()))
    loader = make(transforms=AUGMENT, shuffle_seed=0, mix=CutMix(), device=device)
    if resident:
        loader.pixels, loader.labels = loader.pixels.to(device), loader.labels.to(device)
    on_gpu = epoch(loader)
    assert on_gpu.images.device == on_gpu.labels.device == on_gpu.targets.device == device
    assert torch.equal(on_gpu.labels.cpu(), on_cpu.labels)
    torch.testing.assert_close(on_gpu.images.cpu(), on_cpu.images, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_resized_crops_differ_from_the_cpus_by_a_grey_level_at_most():
    crops = {"transforms": (RandomResizedCrop(SIDE),), "shuffle_seed": 0}
    on_cpu, on_gpu = epoch(make(**crops)), epoch(make(**crops, device=torch.device("cuda", 0)))
    level = 1.01 / PIXELS.reshape(-1, CHANNELS).std(0).min()
    torch.testing.assert_close(on_gpu.images.cpu(), on_cpu.images, rtol=0, atol=float(level))
