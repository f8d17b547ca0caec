"""What saved networks answer: images of splits, folders and files, views, averages."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from bench import inference
from bench.errors import ConfigError
from bench.inference import answers, look, of_files, of_folder, of_split
from bench.reporting import predictions
from bench.saved import open_run
from bench.views import views


@pytest.fixture
def lenet(runs):
    return open_run(runs("model=lenet"))


@pytest.mark.parametrize("overrides", [(), ("data.decode_size=40",), ("augment/normalize=pixel_mean",)])
def test_one_crop_of_the_test_images_is_what_the_run_recorded(runs, overrides):
    folder = runs("model=lenet", *overrides)
    saved, record = open_run(folder), json.loads((folder / "record.json").read_text())
    pictures = of_split(saved, "test")
    made = answers(saved, pictures)
    told = predictions.load(folder)
    assert pictures.names == told.ids.tolist()
    assert np.array_equal(pictures.labels, told.labels)
    assert np.array_equal(made.probabilities.argmax(axis=1), told.predicted)
    assert np.abs(made.probabilities - told.probabilities).max() < 1e-2  # those logits were rounded to 16 bits
    assert (made.probabilities.argmax(axis=1) == pictures.labels).mean() == pytest.approx(
        record["metrics"]["test"]["top1"]
    )
    assert made.passes == 1


def test_one_crop_of_the_validation_images_is_what_selected_the_weights(runs, lenet):
    record = json.loads((runs("model=lenet") / "record.json").read_text())
    pictures = of_split(lenet, "val")
    assert len(pictures.names) == record["val_size"] == 100
    right = answers(lenet, pictures).probabilities.argmax(axis=1) == pictures.labels
    assert right.mean() == pytest.approx(record["metrics"]["val"]["top1"])


def test_several_crops_are_averaged_as_probabilities(lenet, monkeypatch):
    monkeypatch.setattr(inference, "BATCH", 70)  # views of several images go through the network together
    rng = np.random.default_rng(0)
    given = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in SHAPES]
    pictures = inference.Pictures("noise", list("abc"), None, lambda i: given[i].copy())
    made = answers(lenet, pictures, crops=144)
    for image, row in zip(given, made.probabilities, strict=True):
        whole = torch.from_numpy(np.array(image))[None]
        by_hand = [lenet.logits(lenet.normalize(view)).softmax(dim=1) for view in views(whole, lenet.image_size, 144)]
        assert np.allclose(torch.cat(by_hand).mean(dim=0).numpy(), row, atol=1e-5)
    assert made.passes == (144 + 48 + 144) / 3


SHAPES = [(50, 70), (60, 60), (90, 40)]


def test_places_keep_their_mean_where_the_normalisation_tells_them_apart(runs):
    saved = open_run(runs("model=lenet", "augment/normalize=pixel_mean", "data.decode_size=40"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    mean = saved.normalize(torch.from_numpy(np.array(image))[None])
    made = look(saved, image, 10)
    assert made.shape == (10, 32, 32, 3)
    assert torch.equal(made, torch.cat(list(views(mean, 32, 10))))


def test_a_grey_network_sees_grey(runs):
    saved = open_run(runs("model=lenet", "data.in_channels=1"))
    for crops in (1, 10):
        pictures = inference.Pictures("one", ["a"], None, lambda i: Image.new("RGBA", (50, 60)))
        assert look(saved, inference.decoded(saved, pictures, 0), crops).shape == (crops, 32, 32, 1)


def test_labelled_folders(lenet, tmp_path):
    for name in ("3", "7"):
        (tmp_path / "own" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "own" / name / "a.png")
    pictures = of_folder(tmp_path / "own", lenet.classes)
    assert pictures.labels.tolist() == [3, 7]
    (tmp_path / "own" / "rose").mkdir()
    with pytest.raises(ConfigError, match=r"rose is not a class of the network, which knows 0, 1, 2"):
        of_folder(tmp_path / "own", lenet.classes)
    with pytest.raises(ConfigError, match=r"has no images in folders named after classes"):
        of_folder(tmp_path / "own" / "3", lenet.classes)
    with pytest.raises(ConfigError, match=r"nowhere: no such folder"):
        of_folder(tmp_path / "nowhere", lenet.classes)


def test_files_and_folders_without_labels(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    for name in ("deep/b.PNG", "deep/a.jpg", "deep/deeper/c.png", "alone.dat"):
        Image.new("RGB", (9, 9)).save(tmp_path / name, "png")
    (tmp_path / "deep" / "notes.txt").write_text("no image")
    pictures = of_files([str(tmp_path / "alone.dat"), str(tmp_path / "deep")])
    assert [name.removeprefix(f"{tmp_path}/") for name in pictures.names] == [
        "alone.dat", "deep/a.jpg", "deep/b.PNG", "deep/deeper/c.png",
    ]  # fmt: skip
    assert pictures.labels is None
    with pytest.raises(ConfigError, match=r"nothing.png: no such file or folder"):
        of_files([str(tmp_path / "nothing.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: contains no images"):
        of_files([str(tmp_path / "empty")])


def test_links_to_folders_are_followed_once_and_hidden_folders_left_out(tmp_path):
    for name in ("own/a/1.png", "own/.thumbs/t.png", "elsewhere/cat/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    (tmp_path / "own/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "own")  # a circle
    pictures = of_files([str(tmp_path / "own")])
    assert [name.removeprefix(f"{tmp_path}/") for name in pictures.names] == ["own/a/1.png", "own/link/cat/2.png"]


def test_photographs_are_turned_upright(tmp_path):
    picture = Image.new("RGB", (60, 40))
    exif = picture.getexif()
    exif[0x0112] = 6  # lies on its side
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert of_files([str(tmp_path)]).read(0).size == (40, 60)


def test_what_cannot_be_read_is_told_and_the_others_answered_for(lenet, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"nothing")
    made = answers(lenet, of_files([str(tmp_path)]))
    assert list(made.unreadable) == [0]
    assert "cannot identify" in made.unreadable[0]
    assert np.isnan(made.probabilities[0]).all()
    assert made.probabilities[1].sum() == pytest.approx(1)
    assert made.passes == 1


@pytest.fixture
def photographs(tmp_path):
    """A data set of one's own, 12 images in 2 classes."""
    for part, count in (("train", 4), ("val", 1), ("test", 1)):
        for label, name in enumerate(("dark", "light")):
            (tmp_path / "data" / "mine" / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (40, 50), (100 * label + 10 * i,) * 3)
                image.save(tmp_path / "data" / "mine" / part / name / f"{i}.png")
    return tmp_path / "data"


def test_data_that_were_moved_are_found_again_and_changed_ones_refused(runs, photographs, tmp_path):
    overrides = ("model=lenet", "data=folder", "data.name=mine", f"paths.data={photographs}", "data.image_size=32")
    saved = open_run(runs(*overrides, base=("trainer.max_epochs=1", "trainer.accelerator=cpu")))
    moved = photographs.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="mine/train: no such folder"):
        of_split(saved, "test")
    with pytest.raises(ConfigError, match="paths.data=~nobody-here/x: no such user's home"):
        of_split(saved, "test", "~nobody-here/x")
    pictures = of_split(saved, "test", str(moved))
    assert pictures.names == ["test/dark/0", "test/light/0"]
    assert pictures.read(1).getpixel((0, 0)) == (100, 100, 100)
    (moved / "mine" / "test" / "dark" / "0.png").unlink()
    Image.new("RGB", (400, 500)).save(moved / "mine" / "test" / "dark" / "0.png")
    with pytest.raises(ConfigError, match="contains other images than lenet s0 was trained on"):
        of_split(saved, "test", str(moved))


@pytest.mark.parametrize(
    ("root", "recorded", "found"),
    [
        ("/data/cifar", "/data", "{new}/cifar"),
        ("/data", "/data", "{new}"),
        ("cifar", "data", "{new}"),  # set by itself: paths.data takes its place
        ("database/x", "data", "{new}"),
    ],
)
def test_where_a_moved_data_set_is_looked_for(lenet, tmp_path, monkeypatch, root, recorded, found):
    source = {"_target_": "bench.data.sources.cifar10", "root": root}
    moved = dict(lenet.config, paths={"data": recorded}, data=lenet.config["data"] | {"source": source})
    asked = []
    monkeypatch.setattr(inference.hydra.utils, "instantiate", lambda made: asked.append(made["root"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        of_split(dataclasses.replace(lenet, config=moved), "val", str(tmp_path))
    assert asked == [found.format(new=tmp_path)]


def test_a_split_that_the_run_did_not_have_is_refused(runs):
    saved = open_run(runs("model=lenet", "data.val_size=0"))
    with pytest.raises(ConfigError, match="split=val: lenet s0 was trained without val images"):
        of_split(saved, "val")
