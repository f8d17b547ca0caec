"""The data module: splits, statistics and loaders of a small made-up data set."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.augment import HorizontalFlip, RandomCrop
from bench.data.module import ImageData, pixel_statistics
from bench.data.sources import Dataset

N, CLASSES, TEST = 150, 3, 30


def source(image_size: int, in_channels: int) -> Dataset:
    """150 images of 3 classes; test images are brighter, and lie between the training images."""
    rng = np.random.default_rng(0)
    test = np.arange(0, N, N // TEST)
    pixels = rng.integers(0, 128, (N, image_size, image_size, in_channels), dtype=np.uint8)
    pixels[test] += 100
    return Dataset(
        pixels=pixels,
        labels=rng.permutation(np.arange(N) % CLASSES),
        ids=np.array([f"{i}" for i in range(N)]),
        classes=("a", "b", "c"),
        train=np.setdiff1d(np.arange(N), test),
        test=test,
    )


def make(**changes) -> ImageData:
    arguments = dict(
        source=source, image_size=8, in_channels=3, num_classes=CLASSES, val_size=24, batch_size=16, seed=0,
        augment={"crop": RandomCrop(2), "flip": HorizontalFlip()},
    )  # fmt: skip
    return ImageData(**arguments | changes)


def collect(loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def normalised(data: ImageData, index: np.ndarray) -> torch.Tensor:
    values = (data.dataset.pixels[index] - data.mean) / data.std
    return torch.from_numpy(values.transpose(0, 3, 1, 2)).float()


def test_sizes_of_the_parts():
    data = make()
    assert (len(data.train), len(data.val), len(data.test)) == (N - TEST - 24, 24, TEST)


def test_parts_are_disjoint_and_complete_and_test_is_the_official_one():
    data = make()
    assert np.array_equal(np.sort(np.concatenate([data.train, data.val, data.test])), np.arange(N))
    assert np.array_equal(data.test, source(8, 3).test)


def test_validation_is_stratified_and_does_not_move_with_the_seed():
    one, other = make(seed=0), make(seed=1)
    assert np.array_equal(one.val, other.val)
    assert np.array_equal(one.train, other.train)
    share = np.bincount(one.dataset.labels[one.dataset.train]) * 24 / (N - TEST)
    assert (np.abs(np.bincount(one.dataset.labels[one.val]) - share) <= 1).all()


def test_val_size_0_trains_on_all_training_samples():
    data = make(val_size=0)
    assert len(data.val) == len(data.val_dataloader()) == 0
    assert np.array_equal(data.train, data.dataset.train)


def test_wrong_number_of_classes_raises_naming_both():
    with pytest.raises(ValueError, match=r"num_classes=4: .* 3 classes"):
        make(num_classes=4)


@pytest.mark.parametrize("val_size", [-1, 2, N - TEST])
def test_impossible_val_size_raises_naming_it(val_size):
    with pytest.raises(ValueError, match=f"hold out {val_size} of {N - TEST}"):
        make(val_size=val_size)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_statistics_are_those_of_the_training_part_alone(in_channels):
    data = make(in_channels=in_channels)
    seen = data.dataset.pixels[data.train].reshape(-1, in_channels)
    assert data.mean == pytest.approx(seen.mean(axis=0), rel=1e-12)
    assert data.std == pytest.approx(seen.std(axis=0), rel=1e-9)
    everything = data.dataset.pixels.reshape(-1, in_channels)
    assert (np.abs(everything.mean(axis=0) - data.mean) > 10).all()


def test_training_images_have_mean_0_and_std_1():
    images, _ = collect(make(augment={}).train_dataloader())
    assert images.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=1e-4)
    assert images.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=1e-3)


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_is_in_order_and_not_augmented(part):
    data = make()
    index = getattr(data, part)
    images, labels = collect(getattr(data, f"{part}_dataloader")())
    assert torch.equal(labels, torch.from_numpy(data.dataset.labels[index]))
    torch.testing.assert_close(images, normalised(data, index), rtol=1e-5, atol=1e-5)


def test_training_is_shuffled_by_the_seed_and_augmented():
    (one, labels), (again, _), (other, _) = (collect(make(seed=seed).train_dataloader()) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    data = make()
    assert torch.equal(labels.sort().values, torch.from_numpy(np.sort(data.dataset.labels[data.train])))
    plain, _ = collect(make(augment={}).train_dataloader())
    assert not torch.equal(one, plain)


def test_transforms_are_applied_in_the_order_given():
    class Add:
        def __init__(self, value):
            self.value = value

        def draw(self, n, generator):
            return torch.zeros(n, 1)

        def __call__(self, images, parameters):
            return images // 2 + self.value

    data = make(augment={"z": Add(10), "a": Add(1)})
    images, _ = collect(data.train_dataloader())
    pixels = (data.dataset.pixels[data.train] // 2 + 10) // 2 + 1
    expected = torch.from_numpy((pixels - data.mean) / data.std).sum()
    assert images.double().sum().item() == pytest.approx(expected.item(), rel=1e-4)


def test_size_and_channels_are_asked_of_the_source():
    images, _ = next(iter(make(image_size=12, in_channels=1).test_dataloader()))
    assert images.shape == (16, 1, 12, 12)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 2500), side=st.integers(1, 3), channels=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_pixel_statistics_equal_numpys(n, side, channels, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (n + 3, side, side, channels), dtype=np.uint8)
    index = rng.permutation(n + 3)[:n]
    mean, std = pixel_statistics(pixels, index)
    seen = pixels[index].reshape(-1, channels).astype(np.float64)
    assert mean == pytest.approx(seen.mean(axis=0), rel=1e-12, abs=1e-12)
    varies = seen.std(axis=0) > 0
    assert std[varies] == pytest.approx(seen.std(axis=0)[varies], rel=1e-9)
    assert (std > 0).all()


@given(st.integers(0, 255))
def test_a_constant_channel_is_centred(value):
    data = make(source=lambda side, channels: constant(side, channels, value), augment={})
    images, _ = collect(data.train_dataloader())
    assert images.eq(0).all()


def constant(image_size: int, in_channels: int, value: int) -> Dataset:
    dataset = source(image_size, in_channels)
    dataset.pixels[dataset.train] = value
    return dataset


def test_a_constant_channel_is_only_centred():
    data = make(source=lambda side, channels: constant(side, channels, 200))
    images, _ = collect(data.test_dataloader())
    assert images.abs().max() <= 255
