"""Mixup against its formula, CutMix against torchvision's box arithmetic written out."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import CHANNELS, QUICK, SEEDS, draws
from torch import Tensor

from bench.data.augment import CutMix, Mixup

MIXES = pytest.mark.parametrize("kind", [Mixup, CutMix])


def random_pair(n: int, side: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    images, partners = torch.randn(2, n, side, side, channels, generator=torch.Generator().manual_seed(seed))
    return images, partners


@QUICK
@given(n=st.integers(1, 6), side=st.integers(1, 8), channels=CHANNELS, seed=SEEDS, alpha=st.floats(0.05, 5))
def test_mixup_is_the_weighted_mean(n, side, channels, seed, alpha):
    (images, partners), mixup = random_pair(n, side, channels, seed), Mixup(alpha)
    parameters = mixup.draw(draws(n, seed + 1))
    mixed, shares = mixup(images, partners, parameters)
    assert mixed.dtype == shares.dtype == torch.float32
    assert shares.tolist() == pytest.approx(parameters[:, 1].tolist(), abs=1e-7)
    for i, share in enumerate(parameters[:, 1].tolist()):
        expected = share * images[i].double().numpy() + (1 - share) * partners[i].double().numpy()
        np.testing.assert_allclose(mixed[i].numpy(), expected, rtol=0, atol=1e-5)


def test_mixup_with_shares_0_and_1_gives_the_partner_and_the_image():
    images, partners = random_pair(2, 4, 3, seed=0)
    mixed, shares = Mixup()(images, partners, torch.tensor([[1, 0], [0, 1]], dtype=torch.float64))
    assert shares.tolist() == [0, 1]
    assert torch.equal(mixed, torch.stack([partners[0], images[1]]))


def check_cutmix(side: int, channels: int, parameters: Tensor, seed: int) -> None:
    """Compare with the box that torchvision's CutMix computes from λ and a centre, pixel by pixel."""
    n = len(parameters)
    images, partners = random_pair(n, side, channels, seed)
    joined, shares = CutMix()(images, partners, parameters)
    assert joined.dtype == shares.dtype == torch.float32
    for i, (_, share, down, right) in enumerate(parameters.tolist()):
        half = int(0.5 * math.sqrt(1 - share) * side)
        centre_y, centre_x = int(down * side), int(right * side)
        y1, y2 = max(centre_y - half, 0), min(centre_y + half, side)
        x1, x2 = max(centre_x - half, 0), min(centre_x + half, side)
        expected, own = images[i].clone(), side * side
        for y in range(y1, y2):
            for x in range(x1, x2):
                expected[y, x] = partners[i, y, x]
                own -= 1
        assert torch.equal(joined[i], expected)
        assert shares[i].item() == pytest.approx(own / side**2, abs=1e-7)


@QUICK
@given(n=st.integers(1, 5), side=st.integers(1, 10), channels=CHANNELS, seed=SEEDS, alpha=st.floats(0.05, 5))
def test_cutmix_equals_torchvisions_box_arithmetic(n, side, channels, seed, alpha):
    check_cutmix(side, channels, CutMix(alpha).draw(draws(n, seed + 1)), seed)


def test_cutmix_at_the_ends_of_its_parameters():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    rows = torch.cartesian_prod(torch.zeros(1, dtype=torch.float64), ends[0], ends[1], ends[1])
    check_cutmix(9, 3, rows, seed=0)
    check_cutmix(8, 1, rows, seed=0)


def test_cutmix_takes_the_whole_partner_for_share_0_in_the_centre():
    images, partners = random_pair(1, 8, 3, seed=0)
    joined, shares = CutMix()(images, partners, torch.tensor([[0, 0, 0.5, 0.5]], dtype=torch.float64))
    assert torch.equal(joined, partners)
    assert shares.tolist() == [0]


@MIXES
def test_images_and_partners_are_left_as_they_are(kind):
    images, partners = random_pair(8, 6, 3, seed=0)
    kept, mix = (images.clone(), partners.clone()), kind(1.0)
    joined, _ = mix(images, partners, mix.draw(draws(8)))
    assert not torch.equal(joined, images)
    assert torch.equal(images, kept[0])
    assert torch.equal(partners, kept[1])


@MIXES
@QUICK
@given(n=st.integers(1, 300), seed=SEEDS)
def test_partners_are_a_permutation_of_the_epoch(kind, n, seed):
    parameters = kind(0.5).draw(draws(n, seed))
    assert parameters.dtype == torch.float64
    assert sorted(parameters[:, 0].tolist()) == list(range(n))


@MIXES
def test_partners_are_shuffled(kind):
    partners = kind(0.5).draw(draws(1000))[:, 0]
    assert (partners == torch.arange(1000)).sum() < 10
    assert abs(torch.corrcoef(torch.stack([partners, torch.arange(1000.0).double()]))[0, 1]) < 0.1


@MIXES
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_moments_of_the_beta_distribution(kind, alpha):
    shares = kind(alpha).draw(draws(20_000))[:, 1]
    assert 0 <= shares.min() <= shares.max() <= 1
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)


def test_centres_of_cutmix_are_uniform():
    centres = CutMix().draw(draws(10_000))[:, 2:]
    for column in centres.T:
        assert 0 <= column.min() <= column.max() < 1
        assert (torch.histc(column, 10, 0, 1) / 10_000).tolist() == pytest.approx([0.1] * 10, abs=0.015)
    assert abs(torch.corrcoef(centres.T)[0, 1]) < 0.05


@MIXES
def test_parameters_depend_on_the_generator_alone(kind):
    first = kind(0.5).draw(draws(64, seed=5))
    torch.manual_seed(2)
    np_state = np.random.get_state()
    before = torch.get_rng_state(), np_state[1].tolist(), np_state[2], random.getstate()
    assert torch.equal(first, kind(0.5).draw(draws(64, seed=5, lasting=9)))
    np_state = np.random.get_state()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np_state[1].tolist(), np_state[2], random.getstate()) == before[1:]
    other = kind(0.5).draw(draws(64, seed=6))
    assert not torch.equal(first[:, 0], other[:, 0])
    assert not torch.equal(first[:, 1], other[:, 1])


@MIXES
@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_bad_alpha_raises_naming_it(kind, alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha}"):
        kind(alpha)
