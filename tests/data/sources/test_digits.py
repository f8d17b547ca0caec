"""The scanned digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bench.data import sources
from bench.data.splits import hold_out


@pytest.mark.parametrize("side", [32, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_digits_are_1797_in_10_classes_and_540_of_them_test_in_proportion(side, channels, decoder, check):
    digits = sources.digits(decoder(side, channels), test_size=540)
    check(digits, side, channels)
    assert digits.classes == tuple("0123456789")
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1257, 0, 540)
    assert (digits.pixels == digits.pixels[..., :1]).all()
    share = np.bincount(digits.labels) * 540 / 1797
    assert (np.abs(np.bincount(digits.labels[digits.test]) - share) <= 1).all()


def test_digits_of_8_pixels_are_the_scans_with_16_grey_levels_spread_over_255(decoder):
    digits = sources.digits(decoder(8, 1), test_size=540)
    assert np.array_equal(digits.pixels[..., 0], np.round(load_digits().images * 255 / 16))
    assert np.array_equal(digits.labels, load_digits().target)


def test_digits_of_any_test_size_share_one_cache_entry(decoder):
    one, two = (sources.digits(decoder(8, 1), test_size=size) for size in (540, 100))
    assert one.pixels.filename == two.pixels.filename
    assert len(two.test) == 100


def test_digits_without_room_for_each_class_raise(decoder):
    with pytest.raises(ValueError, match=r"data\.source\.test_size=5: must be a whole number from 10 to 1787"):
        sources.digits(decoder(8, 1), test_size=5)


def test_the_digits_that_validate_and_test_are_always_the_same(decoder, fingerprint, golden):
    digits = sources.digits(decoder(8, 1), test_size=540)
    _, held_out = hold_out(digits.labels[digits.train], 180)
    assert fingerprint(digits.ids[digits.train[held_out]]) == golden["digits"]["val"]
    assert fingerprint(digits.ids[digits.test]) == golden["digits"]["test"]
