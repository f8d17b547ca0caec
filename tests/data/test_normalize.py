"""Normalisations against NumPy in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import CHANNELS, QUICK, SEEDS

from bench.data import statistics
from bench.data.normalize import ChannelNormalize, Normalize, PixelMeanNormalize, ZcaNormalize


def training(n: int, side: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose pixels resemble their neighbours, and an index that leaves out 5 brighter ones."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 100, (n + 5, (side + 2) // 3, (side + 2) // 3, channels))
    smooth = coarse.repeat(3, axis=1).repeat(3, axis=2)[:, :side, :side]
    pixels = (smooth + rng.integers(0, 50, (n + 5, side, side, channels))).astype(np.uint8)
    index = rng.permutation(n + 5)[:n]
    pixels[np.setdiff1d(np.arange(n + 5), index)] += 100
    return pixels, index


def applied(normalise: Normalize, images: np.ndarray) -> np.ndarray:
    """The result, the same for uint8 and float32 images, which both stay as they are."""
    levels, values = torch.from_numpy(images.copy()), torch.from_numpy(images.astype(np.float32))
    result, again = normalise(levels), normalise(values)
    assert result.dtype == again.dtype == torch.float32
    assert torch.equal(result, again)
    assert np.array_equal(levels.numpy(), images)
    assert np.array_equal(values.numpy(), images)
    assert result.shape == images.shape
    return result.double().numpy()


@QUICK
@given(n=st.integers(2, 50), side=st.integers(1, 8), channels=CHANNELS, seed=SEEDS, unit=st.booleans())
def test_channel_normalize_subtracts_the_mean_and_divides_by_the_standard_deviation(n, side, channels, seed, unit):
    pixels, index = training(n, side, channels, seed)
    pixels[index[0]] += 1  # no channel is constant
    normalise = ChannelNormalize(unit_variance=unit)
    normalise.fit(pixels, index)
    seen = pixels[index].reshape(-1, channels).astype(np.float64)
    assert normalise.mean == pytest.approx(seen.mean(axis=0), rel=1e-12)
    assert normalise.std == pytest.approx(seen.std(axis=0), rel=1e-9)
    expected = (pixels - seen.mean(axis=0)) / (seen.std(axis=0) if unit else 1)
    np.testing.assert_allclose(applied(normalise, pixels), expected, rtol=1e-4, atol=1e-4)


def test_channel_normalize_takes_images_of_any_side_and_parts_of_larger_ones():
    pixels, index = training(20, 8, 3, seed=0)
    normalise = ChannelNormalize()
    normalise.fit(pixels, index)
    whole = normalise(torch.from_numpy(pixels))
    for part in (np.s_[:, 2:6, 3:7], np.s_[:3, :1, :1], np.s_[:]):
        assert torch.equal(normalise(torch.from_numpy(pixels)[part]), whole[part])


def test_fitting_again_forgets_what_was_learnt_before():
    pixels, index = training(30, 4, 3, seed=0)
    for normalise in (ChannelNormalize(), PixelMeanNormalize()):
        normalise.fit(pixels, index[:10])
        before = applied(normalise, pixels)
        normalise.fit(pixels, index)
        fresh = type(normalise)()
        fresh.fit(pixels, index)
        assert np.array_equal(applied(normalise, pixels), applied(fresh, pixels))
        assert not np.allclose(applied(normalise, pixels), before)


@pytest.mark.parametrize("kind", [ChannelNormalize, PixelMeanNormalize])
@QUICK
@given(value=st.integers(0, 255), n=st.integers(1, 9))
def test_constant_channels_are_only_centred(kind, value, n):
    pixels = np.full((n, 3, 3, 3), value, dtype=np.uint8)
    normalise = kind()
    normalise.fit(pixels, np.arange(n))
    assert not applied(normalise, pixels).any()
    assert applied(normalise, np.full_like(pixels, 7)) == pytest.approx(np.full(pixels.shape, 7.0 - value))


@pytest.mark.parametrize("unit_variance", [True, False])
@QUICK
@given(n=st.integers(2, 60), side=st.integers(2, 6), channels=CHANNELS, seed=SEEDS)
def test_pixel_mean_normalize_equals_numpy(unit_variance, n, side, channels, seed):
    pixels, index = training(n, side, channels, seed)
    normalise = PixelMeanNormalize(unit_variance)
    normalise.fit(pixels, index)
    centred = pixels - pixels[index].astype(np.float64).mean(axis=0)
    std = np.sqrt((centred[index] ** 2).mean(axis=(0, 1, 2))) if unit_variance else 1.0
    np.testing.assert_allclose(applied(normalise, pixels), centred / std, rtol=1e-4, atol=1e-4)


def test_sums_over_more_images_than_are_converted_at_a_time(monkeypatch, tmp_path):
    pixels, index = training(53, 4, 3, seed=0)
    for make in (PixelMeanNormalize, lambda: ZcaNormalize(tmp_path / str(statistics.CHUNK_BYTES))):
        results = []
        for chunk in (10 * 4 * 4 * 3, 2**24):
            monkeypatch.setattr(statistics, "CHUNK_BYTES", chunk)
            normalise = make()
            normalise.fit(pixels, index)
            results.append(applied(normalise, pixels))
        np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-3)


def contrasted(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Each image as a row of zero mean and norm ``scale``, in float64."""
    rows = pixels.reshape(len(pixels), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    return scale * rows / np.linalg.norm(rows, axis=1, keepdims=True)


def principal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, eigenvalues of the covariance, and eigenvectors in columns: by singular values of the centred rows."""
    _, singular, transposed = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=True)
    values = np.zeros(rows.shape[1])
    values[: len(singular)] = singular**2 / len(rows)
    return rows.mean(axis=0), values, transposed.T


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scale", "bias"), [(55.0, 0.1), (55.0, 20.0), (1.0, 0.01)])
def test_zca_equals_numpy(tmp_path, channels, scale, bias):
    pixels, index = training(300, 6, channels, seed=1)
    zca = ZcaNormalize(tmp_path, scale, bias)
    zca.fit(pixels, index)
    mean, values, vectors = principal(contrasted(pixels[index], scale))
    expected = (contrasted(pixels, scale) - mean) @ (vectors / np.sqrt(values + bias)) @ vectors.T
    np.testing.assert_allclose(applied(zca, pixels), expected.reshape(pixels.shape), rtol=0, atol=2e-4)


@pytest.mark.parametrize("bias", [0.1, 20.0])
def test_covariance_of_whitened_training_images_is_1_less_the_share_of_the_bias(tmp_path, bias):
    pixels, index = training(300, 6, 3, seed=2)
    zca = ZcaNormalize(tmp_path, bias=bias)
    zca.fit(pixels, index)
    white = applied(zca, pixels[index]).reshape(300, -1)
    _, values, vectors = principal(contrasted(pixels[index], 55))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    shrunk = (vectors * (values / (values + bias))) @ vectors.T
    np.testing.assert_allclose(np.cov(white, rowvar=False, bias=True), shrunk, atol=1e-3)


@QUICK
@given(side=st.integers(2, 12), channels=CHANNELS, scale=st.floats(0.1, 100), seed=SEEDS)
def test_contrast_gives_each_image_mean_0_and_the_norm_asked_for(side, channels, scale, seed):
    pixels, _ = training(4, side, channels, seed)
    pixels[:, 0, 0, 0], pixels[:, -1, -1, -1] = 0, 255  # no image is constant
    rows = ZcaNormalize("unused", scale).contrast(torch.from_numpy(pixels)).double().numpy()
    assert rows.mean(axis=1) == pytest.approx(np.zeros(len(pixels)), abs=1e-5 * scale)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.full(len(pixels), scale), rel=1e-5)


@pytest.mark.parametrize(("side", "channels"), [(1, 1), (6, 3), (28, 1), (36, 3)])
def test_constant_images_have_no_contrast(side, channels):
    images = torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(256, side, side, channels)
    assert not ZcaNormalize("unused").contrast(images).any()


@pytest.mark.parametrize("brightness", [0.7, 1 / 3])
def test_constant_images_changed_in_brightness_have_no_contrast(brightness):
    images = (torch.arange(256) * brightness)[:, None, None, None].expand(256, 32, 32, 3)
    assert ZcaNormalize("unused").contrast(images).abs().max() < 0.01


def test_constant_images_among_the_others_are_whitened_to_finite_values(tmp_path):
    pixels, index = training(50, 6, 3, seed=0)
    pixels[index[:5]] = 200
    zca = ZcaNormalize(tmp_path)
    zca.fit(pixels, index)
    assert np.isfinite(applied(zca, pixels)).all()


def refuse(*_):
    """In place of NumPy's eigendecomposition."""
    raise AssertionError("computed again")


def fitted(folder, pixels: np.ndarray, index: np.ndarray, **constants: float) -> np.ndarray:
    """The images whitened by a new normalisation."""
    zca = ZcaNormalize(str(folder), **constants)
    zca.fit(pixels, index)
    return applied(zca, pixels)


def test_second_fit_comes_from_the_cache(tmp_path, monkeypatch):
    pixels, index = training(40, 6, 3, seed=0)
    first = fitted(tmp_path, pixels, index)
    monkeypatch.setattr(np.linalg, "eigh", refuse)
    assert np.array_equal(fitted(tmp_path, pixels, index), first)


def test_cache_entries_differ_with_the_images_their_shape_and_the_constants(tmp_path, monkeypatch):
    pixels, index = training(40, 6, 3, seed=0)
    first = fitted(tmp_path, pixels, index)
    changed = pixels.copy()
    changed[index[0], 0, 0, 0] ^= 1
    others = [
        (pixels, index[1:], {}), (changed, index, {}), (pixels.reshape(45, 6, 18, 1), index, {}),
        (pixels, index, {"scale": 54.0}), (pixels, index, {"bias": 0.2}),
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "eigh", refuse)
        for images, part, constants in others:
            with pytest.raises(AssertionError, match="computed again"):
                fitted(tmp_path, images, part, **constants)
    assert not np.allclose(fitted(tmp_path, pixels, index[1:]), first)
    assert np.array_equal(fitted(tmp_path, pixels, index), first)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"no array"), lambda file: file.unlink()])
@pytest.mark.parametrize("name", ["mean.npy", "whitening.npy", "entry.json"])
def test_a_damaged_cache_entry_is_made_anew(tmp_path, capsys, name, damage):
    pixels, index = training(40, 6, 3, seed=0)
    first = fitted(tmp_path, pixels, index)
    (file,) = tmp_path.glob(f"zca-*/{name}")
    damage(file)
    np.testing.assert_allclose(fitted(tmp_path, pixels, index), first, rtol=0, atol=1e-6)
    assert "damaged" in capsys.readouterr().out


def test_images_of_more_values_than_can_be_whitened_raise_naming_both(tmp_path):
    with pytest.raises(ValueError, match=r"zca: data.decode_size=37 must be at most 36"):
        ZcaNormalize(tmp_path).fit(np.zeros((2, 37, 37, 3), dtype=np.uint8), np.arange(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"mean": 5, "std": 3}, "mean=5: must be null or a list of numbers, one per channel"),
        ({"mean": [1, "a", 2], "std": [1, 1, 1]}, r"mean=\[1, 'a', 2\]: must be null or a list"),
        ({"mean": [1, 2, 3], "std": [1, 0, 1]}, r"std=\[1, 0, 1\]: must be null or a list of numbers above 0"),
        ({"mean": [1, 2, 3]}, "give both or neither"),
        ({"unit_variance": "no"}, "unit_variance=no: must be one of true, false"),
    ],
)
def test_bad_arguments_raise_naming_the_value_and_what_is_allowed(arguments, told):
    with pytest.raises(ValueError, match=told):
        ChannelNormalize(**arguments)


@pytest.mark.parametrize("unit_variance", ["off", None, 1])
def test_a_switch_is_true_or_false(unit_variance):
    with pytest.raises(ValueError, match=f"unit_variance={unit_variance}: must be one of true, false"):
        PixelMeanNormalize(unit_variance)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "55"])
@pytest.mark.parametrize("name", ["scale", "bias"])
def test_bad_constants_raise_naming_them(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        ZcaNormalize(tmp_path, **{name: value})
