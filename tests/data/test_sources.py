"""The data sets: what they hold, in which order, and what is said when they are not there."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from bench.data import sources
from bench.data.module import pixel_statistics
from bench.data.sources import Dataset
from bench.data.splits import hold_out

SPLITS = json.loads((Path(__file__).parent.parent / "golden/splits.json").read_text())
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def check(dataset: Dataset, side: int, channels: int) -> None:
    """What every data set promises."""
    n = len(dataset.labels)
    assert dataset.pixels.shape == (n, side, side, channels)
    assert dataset.pixels.dtype == np.uint8
    assert dataset.labels.dtype == np.int64
    assert set(dataset.labels) == set(range(len(dataset.classes)))
    assert len(set(dataset.ids)) == len(dataset.ids) == n
    assert np.array_equal(np.sort(np.concatenate([dataset.train, dataset.test])), np.arange(n))


@pytest.mark.parametrize("side", [32, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_digits(side, channels):
    digits = sources.digits(side, channels, test_size=540)
    check(digits, side, channels)
    assert len(digits.labels) == 1797
    assert digits.classes == tuple("0123456789")
    assert len(digits.test) == 540
    assert (digits.pixels == digits.pixels[..., :1]).all()
    share = np.bincount(digits.labels) * 540 / 1797
    assert (np.abs(np.bincount(digits.labels[digits.test]) - share) <= 1).all()


def test_digits_of_8_pixels_are_the_scans_with_16_grey_levels_spread_over_255():
    from sklearn.datasets import load_digits

    digits = sources.digits(8, 1, test_size=540)
    assert np.array_equal(digits.pixels[..., 0], np.round(load_digits().images * 255 / 16))
    assert np.array_equal(digits.labels, load_digits().target)


def test_digits_without_room_for_each_class_raise():
    with pytest.raises(ValueError, match="hold out 5 of 1797"):
        sources.digits(8, 1, test_size=5)


def fingerprint(dataset: Dataset, val_size: int) -> dict[str, str]:
    """Hashes of the ids that validate and test."""
    _, held_out = hold_out(dataset.labels[dataset.train], val_size)
    parts = {"val": dataset.train[held_out], "test": dataset.test}
    return {name: hashlib.sha256("\n".join(dataset.ids[index]).encode()).hexdigest() for name, index in parts.items()}


def test_the_digits_that_validate_and_test_are_always_the_same():
    assert fingerprint(sources.digits(32, 3, test_size=540), 180) == SPLITS["digits"]


@pytest.fixture
def tree(tmp_path):
    """An image-folder tree of 3 classes with 4 training images and 1 test image each: (root, file → pixels)."""
    rng, pixels = np.random.default_rng(0), {}
    for split, count in (("train", 4), ("test", 1)):
        for name in ("cat", "ant", "bee"):
            folder = tmp_path / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                file = f"{split}/{name}/{i}.{'png' if i % 2 else 'webp'}"
                pixels[file] = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels[file]).save(tmp_path / "cifar10" / file, lossless=True)
    return tmp_path, pixels


def cifar10(root: Path, side: int = 32, channels: int = 3, download: bool = False) -> Dataset:
    return sources.cifar10(side, channels, str(root), str(root / "cache"), download, sizes=None)


def test_cifar10_from_an_image_folder_tree(tree):
    root, pixels = tree
    (root / "cifar10" / "train" / "ant" / ".hidden").write_text("is not an image")
    dataset = cifar10(root)
    check(dataset, 32, 3)
    assert dataset.classes == ("ant", "bee", "cat")
    pixels = {name.rpartition(".")[0]: image for name, image in pixels.items()}
    assert set(dataset.ids) == set(pixels)
    assert [str(i).split("/")[0] for i in dataset.ids[dataset.train]] == ["train"] * 12
    assert [str(i).split("/")[0] for i in dataset.ids[dataset.test]] == ["test"] * 3
    for image, label, name in zip(dataset.pixels, dataset.labels, dataset.ids, strict=True):
        assert np.array_equal(image, pixels[str(name)])
        assert dataset.classes[label] == str(name).split("/")[1]


def test_cifar10_tree_at_another_size_in_grey(tree):
    check(cifar10(tree[0], side=16, channels=1), 16, 1)


def test_cifar10_tree_is_taken_from_the_home_folder(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree[0]))
    dataset = sources.cifar10(32, 3, "~", "~/cache", download=False, sizes=None)
    assert len(dataset.labels) == 15
    assert len(list((tree[0] / "cache").iterdir())) == 1


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_tree_without_a_split_raises_naming_it(tree, missing):
    root, _ = tree
    (root / "cifar10" / missing).rename(root / "cifar10" / "other")
    with pytest.raises(ValueError, match=rf"cifar10: has no folder {missing}/"):
        cifar10(root)


def test_a_tree_whose_classes_differ_between_splits_raises_naming_it(tree):
    root, _ = tree
    (root / "cifar10" / "test" / "ant").rename(root / "cifar10" / "test" / "wasp")
    with pytest.raises(ValueError, match=r"cifar10: the classes .* differ"):
        cifar10(root)


def test_a_tree_without_classes_raises_naming_it(tmp_path):
    (tmp_path / "cifar10" / "train").mkdir(parents=True)
    (tmp_path / "cifar10" / "test").mkdir()
    with pytest.raises(ValueError, match=r"cifar10: the classes .* there are none"):
        cifar10(tmp_path)


def test_a_broken_image_in_a_tree_raises_naming_it(tree):
    root, _ = tree
    (root / "cifar10" / "train" / "bee" / "notes.txt").write_text("is not an image")
    with pytest.raises(ValueError, match=r"train/bee/notes\.txt: not a readable image"):
        cifar10(root)


def python2_pickle(content: object) -> bytes:
    """Pickled as in the published archive: by NumPy's old module name, dtype arguments the integers 0 and 1."""
    pickled = pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core")
    return pickled.replace(b"\x89\x88\x87", b"K\x00K\x01\x87", 1)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Torchvision's unpacked archive with 5×20 training and 20 test images: (root, pixels, labels, numbers)."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
    labels = np.concatenate([rng.permutation(np.arange(20) % 10) for _ in range(6)])
    numbers = rng.permutation(120)  # of the images' names
    checksums = {}
    for part, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        rows = slice(20 * part, 20 * part + 20)
        flat = np.ascontiguousarray(pixels[rows].transpose(0, 3, 1, 2)).reshape(20, 3072)
        names = [f"thing_s_{i:06d}.png" for i in numbers[rows]]
        content = python2_pickle({"data": flat, "labels": labels[rows].tolist(), "filenames": names})
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": list(NAMES)}, protocol=2)
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, checksums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, checksums[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    return tmp_path, pixels, labels, numbers


@pytest.mark.parametrize("download", [False, True])
def test_cifar10_from_the_archive(archive, download):
    root, pixels, labels, numbers = archive
    dataset = cifar10(root, download=download)
    check(dataset, 32, 3)
    assert dataset.classes == NAMES
    assert np.array_equal(dataset.train, np.arange(100))
    assert np.array_equal(dataset.test, np.arange(100, 120))
    where = {int(number): i for i, number in enumerate(numbers)}
    for i, name in enumerate(dataset.ids):
        split, label, stem = name.split("/")
        source = where[int(stem.removeprefix("thing_s_"))]
        assert split == ("train" if source < 100 else "test")
        assert label == NAMES[labels[source]] == NAMES[dataset.labels[i]]
        assert np.array_equal(dataset.pixels[i], pixels[source])


def test_the_archive_and_the_tree_give_the_same_images_in_the_same_order(archive):
    root, *_ = archive
    packed = cifar10(root)
    for name, pixels in zip(packed.ids, packed.pixels, strict=True):
        file = root / "cifar10" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    unpacked = cifar10(root)
    for field in ("pixels", "labels", "ids", "train", "test"):
        assert np.array_equal(getattr(packed, field), getattr(unpacked, field)), field
    assert packed.classes == unpacked.classes


def test_a_tree_of_another_size_than_asked_for_is_refused(tree):
    with pytest.raises(ValueError, match="12 training and 3 test images, not 50000 and 10000"):
        sources.cifar10(32, 3, str(tree[0]), str(tree[0] / "cache"))


def test_cifar10_archive_at_another_size_in_grey(archive):
    check(cifar10(archive[0], side=16, channels=1), 16, 1)


def test_a_damaged_archive_counts_as_missing(archive):
    root, *_ = archive
    with (root / CIFAR10.base_folder / "data_batch_3").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(FileNotFoundError, match="CIFAR-10 is not there, and data.source.download is false"):
        cifar10(root)


def test_missing_cifar10_raises_naming_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="paths.data=.*CIFAR-10 is not there") as caught:
        cifar10(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.data
@pytest.mark.slow
def test_the_real_cifar10_is_complete_and_has_the_published_statistics(tmp_path_factory):
    root = os.environ.get("BENCH_DATA")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("BENCH_DATA names no folder that holds cifar10/")
    dataset = sources.cifar10(32, 3, root, str(tmp_path_factory.mktemp("cache")), download=False)
    check(dataset, 32, 3)
    assert dataset.classes == NAMES
    assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
    assert np.bincount(dataset.labels[dataset.train]).tolist() == [5000] * 10
    assert np.bincount(dataset.labels[dataset.test]).tolist() == [1000] * 10
    assert fingerprint(dataset, 5000) == SPLITS["cifar10"]
    mean, std = pixel_statistics(dataset.pixels, dataset.train)
    assert mean / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-4)
    assert std / 255 == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-4)
