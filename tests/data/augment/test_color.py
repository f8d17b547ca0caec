"""Colour changes against torchvision's, and the lighting of Krizhevsky et al. against NumPy in float64."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import CHANNELS, QUICK, SEEDS, draws, random_images
from torch import Tensor
from torchvision.transforms import functional as TF

from bench.data import statistics
from bench.data.augment import ColorJitter, Lighting

TORCHVISION = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
"""In the order of the parameters' columns."""
AMOUNTS = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)


def check_jitter(jitter: ColorJitter, images: Tensor, parameters: Tensor) -> None:
    """Compare with torchvision's functions on images in [0, 1], called in the order drawn."""
    kept, results = images.clone(), jitter(images, parameters)
    assert results.dtype == torch.float32
    assert results.shape == images.shape
    assert torch.equal(images, kept)
    for image, row, result in zip(images, parameters.tolist(), results, strict=True):
        expected = image.permute(2, 0, 1).float() / 255
        for kind in row[4:]:
            expected = TORCHVISION[int(kind)](expected, row[int(kind)])
        torch.testing.assert_close(result.permute(2, 0, 1) / 255, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@QUICK
@given(
    n=st.integers(1, 6), side=st.integers(1, 8), channels=CHANNELS, seed=SEEDS,
    amounts=st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.floats(0, 0.5)),
)  # fmt: skip
def test_jitter_equals_torchvision_in_the_drawn_order(dtype, n, side, channels, seed, amounts):
    jitter = ColorJitter(*amounts)
    check_jitter(jitter, random_images(n, side, channels, seed).to(dtype), jitter.draw(draws(n, seed + 1)))


@pytest.mark.parametrize("name", AMOUNTS)
def test_each_change_alone_equals_torchvision(name):
    jitter, images = ColorJitter(**AMOUNTS | {name: 0.5}), random_images(8, 6, 3, seed=0)
    parameters = jitter.draw(draws(8))
    check_jitter(jitter, images, parameters)
    assert not torch.equal(jitter(images, parameters), images.float())


def test_hue_equals_torchvision_where_channels_tie():
    levels = torch.tensor([0, 1, 127, 128, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels)[:196].view(1, 14, 14, 3)
    turns = torch.linspace(-0.5, 0.5, 13, dtype=torch.float64)[:, None]
    still = torch.ones(13, 3, dtype=torch.float64)
    parameters = torch.cat([still, turns, torch.arange(4).expand(13, 4)], dim=1)
    check_jitter(ColorJitter(0, 0, 0, 0.5), colours.repeat(13, 1, 1, 1), parameters)


def test_jitter_of_nothing_gives_the_same_values_as_float32():
    images, jitter = random_images(4, 5, 3, seed=0), ColorJitter(0, 0, 0, 0)
    result = jitter(images, jitter.draw(draws(4)))
    assert result.dtype == torch.float32
    assert torch.equal(result, images.float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_saturation_and_hue_leave_grey_images_as_they_are(dtype):
    images, jitter = random_images(6, 5, 1, seed=0).to(dtype), ColorJitter(0, 0, 0.9, 0.5)
    assert torch.equal(jitter(images, jitter.draw(draws(6))), images.float())


def test_factors_are_uniform_in_their_ranges_and_never_negative():
    parameters = ColorJitter(brightness=0.4, contrast=2.0, saturation=0.0, hue=0.3).draw(draws(10_000))
    for column, (low, high) in enumerate([(0.6, 1.4), (0.0, 3.0), (1.0, 1.0), (-0.3, 0.3)]):
        values = parameters[:, column]
        slack = (high - low) / 100
        assert low <= values.min() <= low + slack
        assert high - slack <= values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=2 * slack)


def test_orders_of_the_changes_are_equally_likely():
    orders = ColorJitter().draw(draws(12_000))[:, 4:].long()
    seen, counts = orders.unique(dim=0, return_counts=True)
    assert len(seen) == 24
    assert torch.equal(seen.sort(1).values, torch.arange(4).expand(24, 4))
    assert 400 < counts.min() <= counts.max() < 600


def moves(lighting: Lighting, alphas: Tensor, channels: int) -> np.ndarray:
    """How far black images go, (n, C) float64."""
    return lighting(torch.zeros(len(alphas), 1, 1, channels), alphas)[:, 0, 0].double().numpy()


def fitted(channels: int, seed: int, n: int = 40) -> tuple[Lighting, np.ndarray]:
    """A lighting, and NumPy's covariance of the training images' colours in [0, 1]; other images are brighter."""
    rng = np.random.default_rng(seed)
    mixing = rng.uniform(-40, 40, (channels, channels))
    pixels = (rng.normal(size=(n, 4, 4, channels)) @ mixing + 120).clip(0, 150).astype(np.uint8)
    index = rng.permutation(n)[: n - 10]
    pixels[np.setdiff1d(np.arange(n), index)] += 100
    lighting = Lighting()
    lighting.fit(pixels, index)
    colours = np.concatenate([pixels[i].reshape(-1, channels) for i in index]) / 255
    return lighting, np.atleast_2d(np.cov(colours, rowvar=False, bias=True))


@QUICK
@given(channels=CHANNELS, seed=SEEDS)
def test_unit_alphas_move_by_eigenvalue_times_eigenvector(channels, seed):
    lighting, covariance = fitted(channels, seed)
    columns = moves(lighting, torch.eye(3)[:channels], channels).T / 255
    lengths = np.linalg.norm(columns, axis=0)
    assert np.sort(lengths) == pytest.approx(np.sort(np.linalg.eigvalsh(covariance)), abs=1e-6)
    assert covariance @ columns == pytest.approx(columns * lengths, abs=1e-6)
    assert columns.T @ columns == pytest.approx(np.diag(lengths**2), abs=1e-6)


@QUICK
@given(n=st.integers(1, 6), side=st.integers(1, 6), channels=CHANNELS, seed=SEEDS, real=st.booleans())
def test_lighting_moves_all_pixels_of_an_image_by_the_weighted_sum(n, side, channels, seed, real):
    lighting, _ = fitted(channels, seed)
    images = random_images(n, side, channels, seed).to(torch.float32 if real else torch.uint8)
    kept, alphas = images.clone(), lighting.draw(draws(n, seed))
    results = lighting(images, alphas)
    assert results.dtype == torch.float32
    assert torch.equal(images, kept)
    units = moves(lighting, torch.eye(3)[:channels], channels)
    for image, row, result in zip(images.numpy(), alphas.double().numpy(), results.numpy(), strict=True):
        move = sum(row[i] * units[i] for i in range(channels))
        np.testing.assert_allclose(result, image + move, rtol=0, atol=1e-3)


def test_lighting_is_learnt_from_more_images_than_are_summed_at_a_time(monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 10_000)
    lighting, covariance = fitted(3, seed=0, n=2510)
    units = moves(lighting, torch.eye(3), 3) / 255
    assert units.T @ units == pytest.approx(covariance @ covariance, rel=1e-5)


def test_lighting_may_leave_the_range():
    lighting, _ = fitted(3, seed=0)
    alphas = torch.tensor([[30.0, 30.0, 30.0], [-30.0, -30.0, -30.0]])
    results = lighting(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 2, 2, 3), alphas)
    assert results.min() < 0
    assert results.max() > 255


def test_alphas_are_normal_with_the_standard_deviation_asked_for():
    alphas = Lighting(std=0.3).draw(draws(20_000))
    assert alphas.mean(dim=0).tolist() == pytest.approx([0] * 3, abs=0.01)
    assert (alphas.T.cov() / 0.09).flatten().tolist() == pytest.approx(torch.eye(3).flatten().tolist(), abs=0.05)
    assert (alphas.abs() < 0.3).float().mean().item() == pytest.approx(0.683, abs=0.01)


@pytest.mark.parametrize("transform", [ColorJitter(hue=0.1), Lighting()], ids=["jitter", "lighting"])
def test_parameters_depend_on_the_generator_alone(transform):
    first = transform.draw(draws(64, seed=5))
    torch.manual_seed(2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(first, transform.draw(draws(64, seed=5, lasting=9)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert not torch.equal(first, transform.draw(draws(64, seed=6)))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        *[(lambda name=name: ColorJitter(**{name: -0.1}), f"{name}=-0.1") for name in AMOUNTS],
        *[(lambda name=name: ColorJitter(**{name: math.nan}), f"{name}=nan") for name in AMOUNTS],
        *[(lambda name=name: ColorJitter(**{name: math.inf}), f"{name}=inf") for name in AMOUNTS],
        (lambda: ColorJitter(hue=0.6), "hue=0.6"),
        *[(lambda name=name: ColorJitter(**{name: "much"}), f"{name}=much: must be a number") for name in AMOUNTS],
        (lambda: Lighting(std=-1), "std=-1"),
        (lambda: Lighting(std=None), "std=None: must be a number, 0 or more"),
        (lambda: Lighting(std=math.nan), "std=nan"),
        (lambda: Lighting(std=math.inf), "std=inf"),
    ],
)
def test_bad_arguments_raise_naming_the_value(make, named):
    with pytest.raises(ValueError, match=named):
        make()
