"""Statistics against numpy's, however many images are worked on at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import statistics
from bench.data.statistics import chunks, color_covariance, pixel_statistics


@pytest.fixture(params=[100, 2**24], autouse=True, scope="module")
def chunk_bytes(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "CHUNK_BYTES", request.param)
        yield request.param


def images(n: int, side: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, and an index that leaves out 3 brighter ones."""
    rng = np.random.default_rng(seed)
    pixels, index = rng.integers(0, 200, (n + 3, side, side, channels), dtype=np.uint8), rng.permutation(n + 3)
    pixels[index[n:]] += 50
    return pixels, index[:n]


cases = given(n=st.integers(1, 300), side=st.integers(1, 4), channels=st.integers(1, 3), seed=st.integers(0, 2**31))


@settings(max_examples=30)
@cases
def test_pixel_statistics_equal_numpys(n, side, channels, seed):
    pixels, index = images(n, side, channels, seed)
    mean, std = pixel_statistics(pixels, index)
    seen = pixels[index].reshape(-1, channels).astype(np.float64)
    assert mean == pytest.approx(seen.mean(axis=0), rel=1e-12, abs=1e-12)
    varies = seen.std(axis=0) > 0
    assert std[varies] == pytest.approx(seen.std(axis=0)[varies], rel=1e-9)
    assert (std[~varies] == 1).all()


@settings(max_examples=30)
@cases
def test_color_covariance_equals_numpys(n, side, channels, seed):
    pixels, index = images(n, side, channels, seed)
    seen = pixels[index].reshape(-1, channels).astype(np.float64)
    expected = np.atleast_2d(np.cov(seen, rowvar=False, bias=True))
    np.testing.assert_allclose(color_covariance(pixels, index), expected, rtol=1e-9, atol=1e-7)


@settings(max_examples=30)
@cases
def test_chunks_are_small_and_together_the_index(chunk_bytes, n, side, channels, seed):
    pixels, index = images(n, side, channels, seed)
    parts = chunks(pixels, index)
    assert np.array_equal(np.concatenate(parts), index)
    image = side * side * channels
    assert max(len(part) for part in parts) * image <= max(chunk_bytes, image) + image
