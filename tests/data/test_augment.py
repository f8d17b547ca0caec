"""Batch augmentations against torchvision's, sample by sample."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as TF

from bench.data.augment import HorizontalFlip, RandomCrop

TORCHVISION_MODE = {"zero": "constant", "reflect": "reflect"}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(n: int, side: int, channels: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator(seed))


@st.composite
def crops(draw):
    """Side and a padding that reflection allows (at most side - 1)."""
    side = draw(st.integers(1, 12))
    return side, draw(st.integers(0, side - 1))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@settings(deadline=None, max_examples=40)
@given(shape=crops(), n=st.integers(1, 5), channels=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_crop_equals_torchvision_for_each_sample(mode, shape, n, channels, seed):
    side, padding = shape
    crop, images = RandomCrop(padding, mode), random_images(n, side, channels, seed)
    offsets = crop.draw(n, generator(seed + 1))
    cropped = crop(images, offsets)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    for image, (top, left), result in zip(images, offsets.tolist(), cropped, strict=True):
        padded = TF.pad(image.permute(2, 0, 1), padding, padding_mode=TORCHVISION_MODE[mode])
        assert torch.equal(result.permute(2, 0, 1), TF.crop(padded, top, left, side, side))


@settings(deadline=None, max_examples=30)
@given(side=st.integers(1, 6), excess=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_zero_crop_may_pad_by_the_whole_image_and_more(side, excess, seed):
    padding = min(side + excess, 2 * side - 1)
    crop, images = RandomCrop(padding, "zero"), random_images(3, side, 2, seed)
    offsets = crop.draw(3, generator(seed))
    for image, (top, left), result in zip(images, offsets.tolist(), crop(images, offsets), strict=True):
        padded = TF.pad(image.permute(2, 0, 1), padding)
        assert torch.equal(result.permute(2, 0, 1), TF.crop(padded, top, left, side, side))


def test_reflecting_beyond_the_image_raises():
    crop = RandomCrop(padding=10, mode="reflect")
    with pytest.raises(ValueError, match="padding=10"):
        crop(random_images(4, 8, 3, seed=0), torch.full((4, 2), 20))


def test_crop_offsets_cover_the_whole_range_and_no_more():
    offsets = RandomCrop(padding=2).draw(2000, generator(0))
    assert offsets.shape == (2000, 2)
    assert offsets[:, 0].unique().tolist() == offsets[:, 1].unique().tolist() == [0, 1, 2, 3, 4]
    assert not torch.equal(offsets[:, 0], offsets[:, 1])


def test_crop_without_padding_changes_nothing():
    images = random_images(3, 5, 3, seed=1)
    crop = RandomCrop(padding=0)
    assert torch.equal(crop(images, crop.draw(3, generator(0))), images)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 8),
    side=st.integers(1, 9),
    channels=st.integers(1, 4),
    p=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_flip_equals_torchvision_for_flagged_samples_only(n, side, channels, p, seed):
    flip, images = HorizontalFlip(p), random_images(n, side, channels, seed)
    flags = flip.draw(n, generator(seed + 1))
    flipped = flip(images, flags)
    assert flags.shape == (n, 1)
    assert flipped.dtype == torch.uint8
    for image, flag, result in zip(images, flags[:, 0].tolist(), flipped, strict=True):
        chw = image.permute(2, 0, 1)
        assert torch.equal(result.permute(2, 0, 1), TF.hflip(chw) if flag else chw)


@pytest.mark.parametrize(("p", "low", "high"), [(0.0, 0, 0), (0.3, 0.28, 0.32), (0.5, 0.48, 0.52), (1.0, 1, 1)])
def test_flip_probability(p, low, high):
    assert low <= HorizontalFlip(p).draw(10_000, generator(0)).float().mean().item() <= high


TRANSFORMS = [RandomCrop(3), HorizontalFlip(0.5)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=["crop", "flip"])
def test_parameters_depend_on_the_generator_alone(transform):
    torch.manual_seed(1)
    first = transform.draw(64, generator(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = transform.draw(64, generator(5))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, transform.draw(64, generator(6)))


@pytest.mark.parametrize("transform", [*TRANSFORMS, RandomCrop(3, "zero")], ids=["crop", "flip", "crop_zero"])
def test_images_given_are_left_as_they_are(transform):
    images = random_images(16, 7, 3, seed=2)
    kept = images.clone()
    result = transform(images, transform.draw(16, generator(0)))
    assert not torch.equal(result, images)
    assert torch.equal(images, kept)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RandomCrop(padding=-1), "padding=-1"),
        (lambda: RandomCrop(mode="edge"), "mode=edge"),
        (lambda: HorizontalFlip(p=-0.1), "p=-0.1"),
        (lambda: HorizontalFlip(p=1.5), "p=1.5"),
        (lambda: HorizontalFlip(p=float("nan")), "p=nan"),
    ],
)
def test_bad_arguments_raise_naming_the_value(make, named):
    with pytest.raises(ValueError, match=named):
        make()
