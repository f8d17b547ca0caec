"""Trees of image files: which images count, how they are divided, what is refused."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from bench.data import sources
from bench.data.dataset import TEST, TRAIN, VAL
from bench.data.sources.folder import _draw


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "things"


@pytest.fixture
def plant(root):
    """Makes class folders of grey 4×4 images: ``plant({"train/ant": 3})`` makes train/ant/{00,01,02}.png."""

    def plant(counts: dict[str, int]) -> None:
        level = 0
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (4, 4), level := (level + 7) % 256).save(root / name / f"{i:02d}.png")

    return plant


@pytest.fixture
def load(decoder, root):
    """Loads the tree at 4 pixels in grey."""
    return lambda on_error="raise", at=root, **shares: sources.folder(decoder(4, 1, on_error), str(at), **shares)


def ids(dataset, part: str) -> list[str]:
    return dataset.ids[getattr(dataset, part)].tolist()


def sizes(dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.val), len(dataset.test)


def test_own_parts_are_taken_as_they_are(plant, load, check):
    plant({"train/bee": 2, "train/ant": 3, "val/ant": 1, "test/bee": 1, "test/ant": 1})
    dataset = load()
    check(dataset, 4, 1)
    assert dataset.classes == ("ant", "bee")
    assert ids(dataset, "train") == [f"train/{name}" for name in ("ant/00", "ant/01", "ant/02", "bee/00", "bee/01")]
    assert ids(dataset, "val") == ["val/ant/00"]
    assert ids(dataset, "test") == ["test/ant/00", "test/bee/00"]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 0, 0, 1]
    assert dataset.pixels[:, 0, 0, 0].tolist() == [21, 28, 35, 7, 14, 42, 56, 49]
    assert dataset.skipped == ()


@pytest.mark.parametrize(
    ("own", "expected"),
    [((), (36, 4, 10)), (("val",), (40, 6, 10)), (("test",), (45, 5, 6)), (("val", "test"), (50, 6, 6))],
)
def test_missing_parts_are_drawn_from_train_in_proportion_and_always_the_same(own, expected, plant, load, check):
    plant({"train/ant": 30, "train/bee": 20} | {f"{part}/{name}": 3 for part in own for name in ("ant", "bee")})
    np.random.seed(1)
    dataset = load()
    np.random.seed(2)
    again = load()
    check(dataset, 4, 1)
    assert sizes(dataset) == expected
    for part in ("val", "test"):
        found = ids(dataset, part)
        assert found == ids(again, part)
        assert {one.split("/")[0] for one in found} == {part if part in own else "train"}
        if part not in own:
            counts = np.bincount(dataset.labels[getattr(dataset, part)])
            assert (np.abs(counts - len(found) * np.array([0.6, 0.4])) < 1).all()


def test_shares_can_be_chosen_and_validation_left_out(plant, load):
    plant({"train/ant": 10, "train/bee": 10})
    assert sizes(load(val_share=0, test_share=0.5)) == (10, 0, 10)
    assert sizes(load(val_share=0.5, test_share=0.1)) == (9, 9, 2)


@given(st.lists(st.integers(4, 40), min_size=2, max_size=6), st.floats(0.001, 0.6), st.sampled_from([VAL, TEST]))
def test_a_share_is_drawn_from_train_alone_in_proportion(counts, share, part):
    labels = np.repeat(np.arange(len(counts) + 1), [*counts, 3])
    own = np.where(labels == len(counts), VAL + TEST - part, TRAIN)  # the last class is in the other part
    parts = own.copy()
    _draw(labels, parts, list("abcdef")[: len(counts)], share, part)
    drawn, size = labels[parts == part], max(len(counts), round(share * sum(counts)))
    assert len(drawn) == size
    assert (own[parts == part] == TRAIN).all()
    assert np.array_equal(parts[parts != part], own[parts != part])
    expected = np.array(counts) * size / sum(counts)
    assume((expected >= 1).all() and (np.array(counts) - expected >= 1).all())  # else each class has one nevertheless
    assert (np.abs(np.bincount(drawn, minlength=len(counts)) - expected) < 1 + 1e-9).all()


@given(st.integers(4, 30), st.integers(2, 6), st.floats(0.001, 0.7))
def test_a_share_of_equal_classes_has_one_of_each_at_least_and_leaves_one(count, classes, share):
    labels = np.repeat(np.arange(classes), count)
    parts = np.full(len(labels), TRAIN)
    _draw(labels, parts, list("abcdef")[:classes], share, TEST)
    assert set(labels[parts == TEST]) == set(labels[parts == TRAIN]) == set(range(classes))


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_rare_class_is_in_each_part_too_or_is_refused(share, plant, load):
    plant({"train/ant": 50, "train/bee": 2})
    dataset = load(test_share=share, val_share=0)
    assert set(dataset.labels[dataset.test]) == set(dataset.labels[dataset.train]) == {0, 1}


def test_a_class_too_small_to_divide_is_refused(plant, load):
    plant({"train/ant": 50, "train/bee": 1})
    with pytest.raises(
        ValueError, match="bee has only 1 training image to draw from; add images, or folders val/ and test/"
    ):
        load()


def test_hidden_files_and_files_that_are_no_images_do_not_count(plant, load, root):
    plant({"train/ant": 2, "train/.cache": 1, "val/ant": 1, "test/ant": 1, "test/.cache": 1, "other/wasp": 1})
    for name in (
        "train/ant/.hidden.png",
        "train/ant/notes.txt",
        "train/ant/Thumbs.db",
        "train/ant/none",
        "train/a.png",
    ):
        (root / name).write_text("is not an image")
    Image.new("L", (4, 4), 200).save(root / "train/ant/01.5.JPG")
    dataset = load()
    assert dataset.classes == ("ant",)
    assert dataset.ids.tolist() == ["train/ant/00", "train/ant/01", "train/ant/01.5", "val/ant/00", "test/ant/00"]
    assert dataset.pixels[2, 0, 0, 0] == 200


def test_files_that_differ_in_their_extension_have_ids_of_their_own(plant, load, root, check):
    plant({"train/ant": 2, "val/ant": 1, "test/ant": 1})
    Image.new("L", (4, 4), 200).save(root / "train/ant/00.bmp")
    check(load(), 4, 1)


def test_photographs_are_turned_upright(plant, load, root):
    plant({"train/ant": 1, "val/ant": 1, "test/ant": 1})
    stored = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(root / f"train/ant/turned{orientation}.png", exif=exif)
    across = stored.T
    upright = [stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1]]
    upright += [across, across[:, ::-1], across[::-1, ::-1], across[::-1]]
    assert np.array_equal(load().pixels[1:9, ..., 0], upright)


def test_an_image_whose_exif_data_are_damaged_is_taken_as_it_is_stored(plant, load, root):
    plant({"train/ant": 1, "val/ant": 1, "test/ant": 1})
    stored = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(stored).save(root / "train/ant/damaged.png", exif=b"no TIFF header")
    assert np.array_equal(load().pixels[1, ..., 0], stored)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_images_of_several_frames_give_their_first(plant, load, root):
    plant({"train/ant": 1, "val/ant": 1, "test/ant": 1})
    first, second = (Image.new("L", (4, 4), level) for level in (80, 160))
    for name in ("a.gif", "b.tiff", "c.png"):
        first.save(root / "train/ant" / name, save_all=True, append_images=[second])
    assert load().pixels[1:4, 0, 0, 0].tolist() == [80, 80, 80]


@pytest.mark.parametrize("kind", ["several frames", "truncated"])
def test_no_file_is_left_open(kind, plant, load, root):
    plant({"train/ant": 2, "val/ant": 1, "test/ant": 1})
    file = root / "train/ant/01.png"
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        Image.new("L", (4, 4)).save(file, "gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    assert len(load(on_error="skip").skipped) == (kind == "truncated")
    gc.collect()  # pytest raises what Python says of a file that nobody closed


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ({"val/ant": 1, "test/ant": 1}, FileNotFoundError, "things: has no folder train/"),
        ({"train/.hidden": 1, "test/ant": 1}, ValueError, "things/train: has no class folders"),
        ({"train/ant": 9, "test": 3}, ValueError, "things/test: has no class folders; expected test/<class>"),
        ({"train/ant": 9, "val": 0}, ValueError, "things/val: has no class folders"),
        ({"train/ant": 2, "val/wasp": 1}, ValueError, "things/val/wasp: is not a class of train/, which has ant"),
        ({"train/ant": 2, "test/wasp": 1}, ValueError, "things/test/wasp: is not a class of train/, which has ant"),
        ({"train/ant": 2, "train/bee": 0}, ValueError, "things/train/bee: has no images"),
        ({"train/ant": 2, "val/ant": 0}, ValueError, "things/val/ant: has no images"),
    ],
)
def test_a_tree_of_another_shape_is_refused(counts, error, message, plant, load):
    plant(counts)
    with pytest.raises(error, match=message):
        load()


@pytest.mark.parametrize(
    ("share", "value"),
    [(share, value) for share in ("val_share", "test_share") for value in (-0.1, 1, 1.5, float("nan"))]
    + [("test_share", 0)],
)
def test_a_share_outside_0_to_1_and_a_test_share_of_0_are_refused(share, value, load):
    with pytest.raises(ValueError, match=rf"data\.source\.{share}={value}: must be a number in "):
        load(**{share: value})


def test_labels_and_ids_stay_with_their_images_where_broken_ones_are_left_out(plant, load, root):
    plant({"train/ant": 4, "train/bee": 3, "val/bee": 2, "test/ant": 2, "test/bee": 2})
    whole = load()
    known = dict(zip(whole.ids.tolist(), zip(whole.labels, whole.pixels[:, 0, 0, 0], strict=True), strict=True))
    broken = ["train/ant/01", "train/bee/00", "val/bee/00", "test/bee/01"]
    for one in broken:
        (root / f"{one}.png").write_text("is not an image")
    with pytest.raises(ValueError, match=r"things/train/ant/01\.png: not a readable image"):
        load()
    dataset = load(on_error="skip")
    assert dataset.skipped == tuple(str(root / f"{one}.png") for one in broken)
    left = [one for one in whole.ids.tolist() if one not in broken]
    shown = np.sort(np.concatenate([dataset.train, dataset.val, dataset.test]))
    assert dataset.ids[shown].tolist() == left
    assert [known[one] for one in left] == list(zip(dataset.labels[shown], dataset.pixels[shown, 0, 0, 0], strict=True))
    assert dataset.ids[dataset.lost].tolist() == broken[:2]
    for part in ("train", "val", "test"):
        assert ids(dataset, part) == [one for one in ids(whole, part) if one not in broken]


@pytest.mark.parametrize(("part", "word"), [("train", "training"), ("val", "validation"), ("test", "test")])
def test_a_part_whose_images_are_all_broken_is_refused(part, word, plant, load, root):
    plant({"train/ant": 1, "val/ant": 1, "test/ant": 1})
    (root / part / "ant/00.png").write_text("is not an image")
    with pytest.raises(ValueError, match=f"things: has no {word} images"):
        load("skip")


def test_trees_of_one_name_do_not_share_an_entry_and_ways_to_one_tree_do(plant, load, root, tmp_path, monkeypatch):
    plant({"train/ant": 1, "val/ant": 1, "test/ant": 1})
    first = load().pixels.filename
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(at="things").pixels.filename == load(at="~/things").pixels.filename == first
    (tmp_path / "other").mkdir()
    root.rename(tmp_path / "other/things")  # with its files' times
    assert load(at="other/things").pixels.filename != first
