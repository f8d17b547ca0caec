"""Cutout against torchvision's erase, sample by sample."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import QUICK, SEEDS, draws
from torchvision.transforms import functional as TF

from bench.data.augment import Cutout


@QUICK
@given(
    n=st.integers(1, 5), side=st.integers(1, 12), length=st.integers(1, 30), channels=st.sampled_from([1, 3]),
    seed=SEEDS,
)  # fmt: skip
def test_cutout_equals_torchvisions_erase_of_the_clipped_box(n, side, length, channels, seed):
    images = torch.randn(n, side, side, channels, generator=torch.Generator().manual_seed(seed))
    cutout, kept = Cutout(length), images.clone()
    centres = cutout.draw(draws(n, seed + 1))
    results = cutout(images, centres)
    assert results.dtype == torch.float32
    assert torch.equal(images, kept)
    for image, (down, right), result in zip(images, centres.tolist(), results, strict=True):
        begins = [int(share * side) - length // 2 for share in (down, right)]
        (top, bottom), (left, right_end) = ((max(0, begin), min(side, begin + length)) for begin in begins)
        expected = TF.erase(image.permute(2, 0, 1), top, left, bottom - top, right_end - left, torch.tensor(0.0))
        assert torch.equal(result.permute(2, 0, 1), expected)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_a_square_inside_has_length_pixels_on_each_side(length):
    result = Cutout(length)(torch.ones(1, 20, 20, 3), torch.full((1, 2), 0.5, dtype=torch.float64))
    erased = result[0, :, :, 0] == 0
    assert erased.any(0).sum() == erased.any(1).sum() == length
    assert erased.sum() == length**2


def test_each_pixel_is_the_centre_equally_often():
    centres = Cutout(1).draw(draws(10_000))
    assert centres.shape == (10_000, 2)
    erased = Cutout(1)(torch.ones(10_000, 5, 5, 1), centres) == 0
    assert (erased.sum(dim=(1, 2, 3)) == 1).all()
    assert 320 < erased.sum(dim=0).min() <= erased.sum(dim=0).max() < 480


@QUICK
@given(side=st.integers(1, 300))
def test_greatest_centre_is_the_last_pixel(side):
    result = Cutout(1)(torch.ones(1, side, side, 1), torch.full((1, 2), 1 - 2**-53, dtype=torch.float64))
    assert result[0, -1, -1, 0] == 0
    assert result.sum() == side**2 - 1


def test_parameters_depend_on_the_generator_alone():
    first = Cutout().draw(draws(64, seed=5))
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(first, Cutout().draw(draws(64, seed=5, lasting=9)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert not torch.equal(first, Cutout().draw(draws(64, seed=6)))


@pytest.mark.parametrize("length", [0, -3, 2.5, None])
def test_bad_length_raises_naming_it(length):
    with pytest.raises(ValueError, match=f"length={length}"):
        Cutout(length)
