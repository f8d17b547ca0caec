"""Crops and flips against torchvision's, sample by sample."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import CHANNELS, QUICK, SEEDS, draws, random_images
from torch import Tensor
from torchvision.transforms import RandomResizedCrop as TorchvisionResizedCrop
from torchvision.transforms import functional as TF

from bench.data.augment import AlternatingFlip, HorizontalFlip, RandomCrop, RandomResizedCrop

TORCHVISION_MODE = {"zero": "constant", "reflect": "reflect"}
SIZES = st.integers(1, 5)
ALMOST_1 = 1 - 2**-53
"""The greatest number that a generator draws."""


def check_crop(crop: RandomCrop, images: Tensor, places: Tensor) -> None:
    """Compare with torchvision's padding and cropping."""
    kept, cropped = images.clone(), crop(images, places)
    assert cropped.shape == (len(images), crop.size, crop.size, images.shape[-1])
    assert cropped.dtype == images.dtype
    assert torch.equal(images, kept)
    steps = images.shape[1] + 2 * crop.padding - crop.size + 1
    for image, (down, right), result in zip(images, places.tolist(), cropped, strict=True):
        padded = TF.pad(image.permute(2, 0, 1), crop.padding, padding_mode=TORCHVISION_MODE[crop.mode])
        expected = TF.crop(padded, int(down * steps), int(right * steps), crop.size, crop.size)
        assert torch.equal(result.permute(2, 0, 1), expected)


@st.composite
def crops(draw):
    """Side, a padding that reflection allows (at most side - 1), and the side of the crop."""
    side = draw(st.integers(1, 12))
    padding = draw(st.integers(0, side - 1))
    return side, padding, draw(st.integers(1, side + 2 * padding))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("mode", ["zero", "reflect"])
@QUICK
@given(shape=crops(), n=SIZES, channels=CHANNELS, seed=SEEDS)
def test_crop_equals_torchvision_for_each_sample(mode, dtype, shape, n, channels, seed):
    side, padding, size = shape
    crop = RandomCrop(size, padding, mode)
    check_crop(crop, random_images(n, side, channels, seed).to(dtype), crop.draw(draws(n, seed + 1)))


@QUICK
@given(side=st.integers(1, 6), padding=st.integers(1, 20), seed=SEEDS)
def test_zero_crop_may_pad_by_the_whole_image_and_more(side, padding, seed):
    crop = RandomCrop(side, padding, "zero")
    check_crop(crop, random_images(3, side, 3, seed), crop.draw(draws(3, seed)))


@pytest.mark.parametrize("padding", [0, 2])
def test_crop_of_images_that_are_a_part_of_a_larger_tensor(padding):
    images = random_images(9, 8, 3, seed=0)
    crop = RandomCrop(4, padding)
    for part in (images[3:], images[3:, 1:7, 2:], images[::2], images.transpose(1, 2)):
        square = part[:, :6, :6]
        check_crop(crop, square, crop.draw(draws(len(square))))


@QUICK
@given(side=st.integers(1, 40), padding=st.integers(0, 5))
def test_greatest_place_is_the_bottom_right_corner(side, padding):
    size = (side + 1) // 2
    images = random_images(2, side, 1, seed=0)
    crop = RandomCrop(size, padding, "zero")
    expected = TF.pad(images.permute(0, 3, 1, 2), padding)[..., -size:, -size:]
    assert torch.equal(crop(images, torch.full((2, 2), ALMOST_1, dtype=torch.float64)).permute(0, 3, 1, 2), expected)


def test_all_places_of_a_crop_are_equally_likely():
    crop, n = RandomCrop(3, padding=0), 10_000
    numbers = torch.arange(49, dtype=torch.uint8).view(1, 7, 7, 1).expand(n, -1, -1, -1)
    corners = crop(numbers, crop.draw(draws(n)))[:, 0, 0, 0].long()
    counts = torch.bincount(corners, minlength=49).view(7, 7)
    assert counts[5:].sum() == counts[:, 5:].sum() == 0
    assert 320 < counts[:5, :5].min() <= counts[:5, :5].max() < 480


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        (RandomCrop(8, padding=8, mode="reflect"), r"padding=8: .*8×8.* at most 7"),
        (RandomCrop(13, padding=2, mode="zero"), r"size=13: .*8×8 padded by 2"),
        (RandomCrop(9, padding=0), r"size=9: .*8×8 padded by 0"),
    ],
)
def test_images_too_small_for_the_crop_raise(crop, message):
    with pytest.raises(ValueError, match=message):
        crop(random_images(4, 8, 3, seed=0), crop.draw(draws(4)))


@QUICK
@given(n=SIZES, side=st.integers(1, 9), channels=CHANNELS, p=st.floats(0, 1), seed=SEEDS, real=st.booleans())
def test_flip_equals_torchvision_for_flagged_samples_only(n, side, channels, p, seed, real):
    images = random_images(n, side, channels, seed).to(torch.float32 if real else torch.uint8)
    flip, kept = HorizontalFlip(p), images.clone()
    flags = flip.draw(draws(n, seed + 1))
    flipped = flip(images, flags)
    assert flags.shape == (n, 1)
    assert flipped.dtype == images.dtype
    assert torch.equal(images, kept)
    for image, flag, result in zip(images, flags[:, 0].tolist(), flipped, strict=True):
        chw = image.permute(2, 0, 1)
        assert torch.equal(result.permute(2, 0, 1), TF.hflip(chw) if flag else chw)


@pytest.mark.parametrize(("p", "low", "high"), [(0.0, 0, 0), (0.3, 0.28, 0.32), (0.5, 0.48, 0.52), (1.0, 1, 1)])
def test_flip_probability(p, low, high):
    assert low <= HorizontalFlip(p).draw(draws(10_000)).float().mean().item() <= high


def test_alternating_flip_mirrors_each_image_in_one_of_two_successive_epochs():
    flip = AlternatingFlip()
    epochs = [flip.draw(draws(2000, seed=epoch, epoch=epoch, lasting=7)) for epoch in range(5)]
    assert 0.46 < epochs[0].float().mean().item() < 0.54
    for one, other in itertools.pairwise(epochs):
        assert (one ^ other).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@QUICK
@given(n=SIZES, side=st.integers(1, 24), size=st.integers(1, 24), channels=CHANNELS, seed=SEEDS)
def test_resized_crop_equals_torchvision_for_each_sample(dtype, n, side, size, channels, seed):
    images, crop = random_images(n, side, channels, seed).to(dtype), RandomResizedCrop(size)
    kept, parameters = images.clone(), crop.draw(draws(n, seed + 1))
    results = crop(images, parameters)
    assert results.shape == (n, size, size, channels)
    assert results.dtype == dtype
    assert torch.equal(images, kept)
    for image, box, result in zip(images, crop.boxes(side, parameters).tolist(), results, strict=True):
        expected = TF.resized_crop(image.permute(2, 0, 1), *box, [size, size], antialias=True)
        off = (result.permute(2, 0, 1).double() - expected.double()).abs().max()
        assert off <= (1 if dtype == torch.uint8 else 1e-3)


def test_resized_crop_does_not_depend_on_the_number_of_threads(monkeypatch):
    images, crop = random_images(7, 12, 3, seed=0), RandomResizedCrop(8)
    parameters = crop.draw(draws(7))
    results = []
    for threads in (1, 3, 20):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(crop(images, parameters))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@QUICK
@given(side=st.integers(1, 300), seed=SEEDS)
def test_boxes_are_the_fractions_in_whole_pixels_and_lie_inside(side, seed):
    crop = RandomResizedCrop(8, scale=(0.0001, 1.0))
    parameters = crop.draw(draws(50, seed))
    parameters[::7, 2:] = ALMOST_1
    boxes = crop.boxes(side, parameters).tolist()
    for (height, width, down, right), box in zip(parameters.tolist(), boxes, strict=True):
        rows, cols = max(1, round(height * side)), max(1, round(width * side))
        assert box == [int(down * (side - rows + 1)), int(right * (side - cols + 1)), rows, cols]
        assert box[0] + rows <= side
        assert box[1] + cols <= side


def test_area_and_log_ratio_are_uniform_between_their_bounds_where_all_fits():
    height, width, *_ = RandomResizedCrop(8, scale=(0.1, 0.4), ratio=(0.5, 2.0)).draw(draws(20_000)).T
    for values, low, high in ((height * width, 0.1, 0.4), ((width / height).log2(), -1, 1)):
        share = (values - low) / (high - low)
        assert -1e-9 < share.min() < 0.001
        assert 0.999 < share.max() < 1 + 1e-9
        assert (torch.histc(share.clamp(0, 1), 10, 0, 1) / 20_000).tolist() == pytest.approx([0.1] * 10, abs=0.01)


def test_resized_crop_is_distributed_as_torchvisions():
    scale, ratio, side, n = [0.08, 1.0], [0.5, 2.0], 500, 4000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [TorchvisionResizedCrop.get_params(torch.empty(1, side, side), scale, ratio) for _ in range(n)]
    crop = RandomResizedCrop(8, scale, ratio)
    ours = crop.boxes(side, crop.draw(draws(n)))
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    for mine, other in zip(ours.float().T, torch.tensor(theirs).float().T, strict=True):
        off = (mine / side).quantile(quantiles) - (other / side).quantile(quantiles)
        assert off.abs().max() < 0.03


def test_where_no_draw_fits_the_whole_image_is_scaled():
    images, crop = random_images(20, 9, 3, seed=0), RandomResizedCrop(6, scale=(1.0, 1.0), ratio=(0.01, 100.0))
    parameters = crop.draw(draws(20))
    assert crop.boxes(9, parameters).tolist() == [[0, 0, 9, 9]] * 20
    expected = TF.resize(images.permute(0, 3, 1, 2), [6, 6], antialias=True)
    assert (crop(images, parameters).permute(0, 3, 1, 2).int() - expected.int()).abs().max() <= 1


TRANSFORMS = [RandomCrop(7, 3), HorizontalFlip(), AlternatingFlip(), RandomResizedCrop(7)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_parameters_depend_on_their_generator_alone(transform):
    ours, other = ("lasting", "seed") if isinstance(transform, AlternatingFlip) else ("seed", "lasting")
    first = transform.draw(draws(64, **{ours: 5}))
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(first, transform.draw(draws(64, **{ours: 5, other: 9})))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert not torch.equal(first, transform.draw(draws(64, **{ours: 6})))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RandomCrop(0), "size=0"),
        (lambda: RandomCrop(8, padding=-1), "padding=-1"),
        (lambda: RandomCrop(8, mode="edge"), "mode=edge"),
        (lambda: HorizontalFlip(p=-0.1), "p=-0.1"),
        (lambda: HorizontalFlip(p=1.5), "p=1.5"),
        (lambda: HorizontalFlip(p=math.nan), "p=nan"),
        (lambda: RandomResizedCrop(0), "size=0"),
        (lambda: RandomResizedCrop(8, scale=[0.0, 1.0]), r"scale=\[0.0, 1.0\]"),
        (lambda: RandomResizedCrop(8, scale=[0.5, 1.1]), r"scale=\[0.5, 1.1\]"),
        (lambda: RandomResizedCrop(8, scale=[0.6, 0.5]), r"scale=\[0.6, 0.5\]"),
        (lambda: RandomResizedCrop(8, scale=[0.5]), r"scale=\[0.5\]"),
        (lambda: RandomResizedCrop(8, ratio=[0.0, 2.0]), r"ratio=\[0.0, 2.0\]"),
        (lambda: RandomResizedCrop(8, ratio=[1.5, 2.0]), r"ratio=\[1.5, 2.0\]"),
        (lambda: RandomResizedCrop(8, ratio=[0.5, math.nan]), r"ratio=\[0.5, nan\]"),
        (lambda: RandomResizedCrop(8, ratio=[0.5, math.inf]), r"ratio=\[0.5, inf\]"),
        # of another type
        (lambda: RandomCrop(31.5), "size=31.5: must be a whole number, 1 or more"),
        (lambda: RandomCrop(8, padding=1.5), "padding=1.5: must be a whole number, 0 or more"),
        (lambda: RandomCrop(8, mode=None), "mode=None: must be one of zero, reflect"),
        (lambda: HorizontalFlip(p="half"), "p=half: must be a probability"),
        (lambda: RandomResizedCrop(8, scale=0.5), "scale=0.5: must be two ascending numbers in"),
        (lambda: RandomResizedCrop(8, scale="01"), "scale=01: must be two ascending numbers in"),
        (lambda: RandomResizedCrop(8, ratio=["a", "b"]), r"ratio=\['a', 'b'\]: must be two ascending numbers above 0"),
    ],
)
def test_bad_arguments_raise_naming_the_value(make, named):
    with pytest.raises(ValueError, match=named):
        make()
