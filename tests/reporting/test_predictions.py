import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from bench.reporting import predictions
from bench.reporting.predictions import HARDEST, Predictions


def make(n=40, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    names = np.array([f"class {i}" for i in range(classes)])
    return Predictions(logits, logits.argmax(axis=1), rng.integers(0, classes, n), np.arange(n).astype(str), names)


def test_what_was_saved_is_loaded(tmp_path):
    made = make()
    assert predictions.load(tmp_path) is None
    saved, loaded = predictions.save(tmp_path, made), predictions.load(tmp_path)
    for field in ("logits", "predicted", "labels", "ids", "classes"):
        assert np.array_equal(getattr(saved, field), getattr(loaded, field))
    assert (loaded.logits.dtype, loaded.probabilities.dtype) == (np.float16, np.float32)
    assert loaded.logits == pytest.approx(made.logits, abs=2**-7)
    again = predictions.save(tmp_path, loaded)
    assert np.array_equal(again.logits, loaded.logits)
    assert np.array_equal(loaded.correct, made.predicted == made.labels)
    assert loaded.probabilities.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-6)
    assert loaded.confidence == pytest.approx(loaded.probabilities.max(axis=1))


@pytest.mark.parametrize("largest", [50, 70, 300, 1e5])  # distances, as LeNet-5's, are large
def test_large_logits_are_kept_as_precisely_as_small_ones(tmp_path, largest):
    made = make()
    large = dataclasses.replace(made, logits=made.logits - np.float32(largest))
    kept = predictions.save(tmp_path, large)
    assert np.abs(kept.logits.astype(np.float32) - large.logits).max() <= 2**-7
    assert kept.confidence == pytest.approx(made.confidence, abs=0.02)


def test_a_strip_has_its_images_side_by_side_in_colour():
    gray = np.stack([np.full((64, 64, 1), value, np.uint8) for value in (0, 255)])
    picture = Image.open(io.BytesIO(predictions.strip(gray, side=48)))
    assert picture.size == (96, 48)
    assert (picture.getpixel((10, 24)), picture.getpixel((80, 24))) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:4] + b" no archive",
        lambda content: content[: len(content) // 2],
        lambda content: content[:200] + bytes(200) + content[400:],  # within the first array's compressed values
    ],
    ids=["empty", "no archive", "cut off", "zeros"],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    predictions.save(tmp_path, make(200))
    file = tmp_path / predictions.PREDICTIONS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"predictions.npz: is damaged"):
        predictions.load(tmp_path)


def test_a_file_in_which_something_is_missing_is_named(tmp_path):
    np.savez(tmp_path / predictions.PREDICTIONS, logits=np.zeros(1))
    with pytest.raises(ValueError, match=r"predictions.npz: is damaged"):
        predictions.load(tmp_path)


def test_the_hardest_mistakes_come_first_and_are_mistakes():
    made = make(200)
    hardest = made.hardest()
    assert len(hardest) == HARDEST
    assert not made.correct[hardest].any()
    truth = made.probabilities[np.arange(200), made.labels]
    assert (np.diff(truth[hardest]) >= 0).all()
    assert truth[hardest[-1]] <= np.sort(truth[~made.correct])[HARDEST - 1]


def test_samples_are_the_same_in_the_same_order_or_they_are_not():
    one, turned = make(), make(seed=1)
    assert predictions.same_samples([one, one])
    assert not predictions.same_samples([one, turned])  # other labels
