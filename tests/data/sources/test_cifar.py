"""CIFAR-10 and CIFAR-100: from torchvision's files and from a tree of image files, with the same outcome."""

import hashlib
import pickle
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from bench.data import sources
from bench.data.splits import hold_out
from bench.data.statistics import pixel_statistics

KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = {"cifar10": NAMES, "cifar100": tuple(f"fine_{i:02d}" for i in range(100))}


@pytest.fixture(params=KINDS)
def name(request):
    """The data set's name, of its tree, its function and its cache."""
    return request.param


@pytest.fixture
def load(name, decoder, tmp_path):
    """Loads the data set from ``tmp_path``."""

    def load(side=32, channels=3, on_error="raise", root=tmp_path, download=False, sizes=None):
        return getattr(sources, name)(decoder(side, channels, on_error), str(root), download, sizes)

    return load


@pytest.fixture
def tree(name, tmp_path):
    """An image-folder tree of 3 classes with 4 training images and 1 test image each: file → pixels."""
    rng, pixels = np.random.default_rng(0), {}
    for split, count in (("train", 4), ("test", 1)):
        for kind in ("cat", "ant", "bee"):
            (tmp_path / name / split / kind).mkdir(parents=True)
            for i in range(count):
                file = f"{split}/{kind}/{i}.{'png' if i % 2 else 'webp'}"
                pixels[file] = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels[file]).save(tmp_path / name / file, lossless=True)
    return pixels


def test_a_tree_gives_its_images_by_part_class_and_name(tree, load, check, name, tmp_path):
    (tmp_path / name / "train" / "ant" / ".hidden.png").write_text("is not an image")
    dataset = load()
    check(dataset, 32, 3)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.ids.tolist() == [
        f"{split}/{kind}/{i}" for split, n in (("train", 4), ("test", 1)) for kind in dataset.classes for i in range(n)
    ]
    assert (dataset.train.tolist(), dataset.test.tolist()) == (list(range(12)), [12, 13, 14])
    pixels = {file.rpartition(".")[0]: image for file, image in tree.items()}
    for image, label, one in zip(dataset.pixels, dataset.labels, dataset.ids, strict=True):
        assert np.array_equal(image, pixels[str(one)])
        assert dataset.classes[label] == str(one).split("/")[1]


def test_a_tree_at_another_size_in_grey(tree, load, check):
    check(load(16, 1), 16, 1)


def test_a_tree_is_found_in_the_home_folder(tree, load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load(root="~").labels) == 15


def test_a_tree_without_training_or_test_images_is_refused(tree, load, name, tmp_path):
    shutil.rmtree(tmp_path / name / "test")
    with pytest.raises(ValueError, match=f"{name}: has no test images"):
        load()
    shutil.rmtree(tmp_path / name / "train")
    with pytest.raises(FileNotFoundError, match=f"{name}: has no folder train/"):
        load()


def test_a_broken_image_in_a_tree_raises_naming_it_or_is_left_out(tree, load, name, tmp_path):
    file = tmp_path / name / "train" / "bee" / "1.png"
    file.write_text("is not an image")
    with pytest.raises(ValueError, match=r"train/bee/1\.png: not a readable image"):
        load()
    dataset = load(on_error="skip", sizes=(12, 3))
    assert dataset.skipped == (str(file),)
    assert dataset.ids[dataset.lost].tolist() == ["train/bee/1"]
    assert (len(dataset.train), len(dataset.test)) == (11, 3)


def test_other_sizes_than_asked_for_are_refused(tree, load):
    with pytest.raises(ValueError, match="12 training and 3 test images, not 50000 and 10000"):
        load(sizes=(50_000, 10_000))
    with pytest.raises(ValueError, match="12 training and 3 test images, not 11 and 4"):
        load(sizes=(11, 4))
    assert len(load(sizes=(12, 3)).labels) == 15


def python2_pickle(content: object) -> bytes:
    """Pickled as in the published archive: by NumPy's old module name, dtype arguments the integers 0 and 1."""
    pickled = pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core")
    return pickled.replace(b"\x89\x88\x87", b"K\x00K\x01\x87", 1)


@dataclass
class Archive:
    """Torchvision's unpacked archive in ``folder``; image i has the name ``thing_s_<numbers[i]>.png``."""

    folder: Path
    pixels: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray
    n_train: int


@pytest.fixture
def archive(name, tmp_path, monkeypatch):
    """An archive in torchvision's format with two images a class and file; its checksums are taken for the right."""
    kind, classes = KINDS[name], CLASSES[name]
    files = [file for file, _ in [*kind.train_list, *kind.test_list]]
    folder, rng, size = tmp_path / kind.base_folder, np.random.default_rng(0), 2 * len(classes)
    folder.mkdir()
    n = size * len(files)
    pixels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    labels = np.concatenate([rng.permutation(np.arange(size) % len(classes)) for _ in files])
    numbers = rng.permutation(n)
    contents: dict[str, Any] = {}
    for part, file in enumerate(files):
        rows = slice(size * part, size * part + size)
        flat = np.ascontiguousarray(pixels[rows].transpose(0, 3, 1, 2)).reshape(size, 3072)
        images = [f"thing_s_{i:06d}.png" for i in numbers[rows]]
        targets = {"labels": labels[rows].tolist()}
        if name == "cifar100":
            targets = {"coarse_labels": [0] * size, "fine_labels": labels[rows].tolist()}
        contents[file] = python2_pickle({"data": flat, "filenames": images, **targets})
    words = {"label_names": list(classes)}
    if name == "cifar100":
        words = {"coarse_label_names": ["coarse"], "fine_label_names": list(classes)}
    contents[kind.meta["filename"]] = pickle.dumps(words, protocol=2)
    sums = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    monkeypatch.setattr(kind, "train_list", [[file, sums[file]] for file, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[file, sums[file]] for file, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums[kind.meta["filename"]]})
    return Archive(folder, pixels, labels, numbers, n - size)


@pytest.fixture
def downloads(name, monkeypatch, tmp_path):
    """Moves ``tmp_path/site`` to where torchvision would unpack what it downloads; the list of what it asked for."""
    asked: list[str] = []

    def download(url, root, filename, md5):
        asked.append(f"{url} {md5}")
        if not (tmp_path / "site").exists():
            raise RuntimeError("no such site")
        (tmp_path / "site").rename(
            Path(root) / Path(filename).name.replace(".tar.gz", "").replace("10-python", "10-batches-py")
        )

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", download)
    return asked


@pytest.mark.parametrize("download", [False, True])
def test_the_archive_gives_its_images_by_part_class_and_name(archive, load, check, downloads, name, download):
    dataset = load(download=download)
    check(dataset, 32, 3)
    assert downloads == []
    assert dataset.classes == CLASSES[name]
    assert (len(dataset.train), dataset.train.max()) == (archive.n_train, archive.n_train - 1)
    assert dataset.ids[dataset.train].tolist() == sorted(dataset.ids[dataset.train])
    assert dataset.ids[dataset.test].tolist() == sorted(dataset.ids[dataset.test])
    where = {int(number): i for i, number in enumerate(archive.numbers)}
    for i, one in enumerate(dataset.ids):
        split, label, stem = one.split("/")
        source = where[int(stem.removeprefix("thing_s_"))]
        assert split == ("train" if source < archive.n_train else "test")
        assert label == CLASSES[name][archive.labels[source]] == CLASSES[name][dataset.labels[i]]
        assert np.array_equal(dataset.pixels[i], archive.pixels[source])


def test_the_archive_and_the_tree_give_the_same_images_in_the_same_order(archive, load, name, tmp_path):
    packed = load()
    for one, pixels in zip(packed.ids, packed.pixels, strict=True):
        file = tmp_path / name / f"{one}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    unpacked = load()
    assert unpacked.pixels.filename != packed.pixels.filename
    for part in ("pixels", "labels", "ids", "train", "val", "test"):
        assert np.array_equal(getattr(packed, part), getattr(unpacked, part)), part
    assert packed.classes == unpacked.classes


def test_an_archive_is_opened_once_and_again_when_it_changes(archive, load, name, monkeypatch):
    first = load()
    kind, opened = KINDS[name], []
    init = kind.__init__
    monkeypatch.setattr(kind, "__init__", lambda self, *a, **k: (opened.append(self), init(self, *a, **k))[1])
    second = load()
    assert opened == []
    for part in ("pixels", "labels", "ids", "train", "test"):
        assert np.array_equal(getattr(first, part), getattr(second, part)), part
    file = archive.folder / kind.train_list[0][0]
    file.write_bytes(file.read_bytes())  # the same bytes, written later
    load()
    assert len(opened) == 2


def test_an_archive_is_opened_once_for_all_threads_that_decode(archive, load, name, monkeypatch):
    load(side=8)
    kind, opened = KINDS[name], []
    init = kind.__init__

    def slow(self, *arguments, **more):
        opened.append(self)
        time.sleep(0.05)
        init(self, *arguments, **more)

    monkeypatch.setattr(kind, "__init__", slow)
    monkeypatch.setattr("bench.data.decode.os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    load(side=16)
    assert len(opened) == 2  # its two halves


def test_a_missing_archive_is_downloaded_once(archive, load, downloads, name, tmp_path):
    archive.folder.rename(tmp_path / "site")
    root = tmp_path / "made" / "on" / "demand"
    assert len(load(download=True, root=root).train) == archive.n_train
    assert len(load(download=True, root=root).train) == archive.n_train
    md5 = {"cifar10": "c58f30108f718f92721af3b95e74349a", "cifar100": "eb9058c3a382ffc7106e4002c42a8d85"}[name]
    assert downloads == [f"https://www.cs.toronto.edu/~kriz/{name.replace('cifar', 'cifar-')}-python.tar.gz {md5}"]


def test_a_damaged_archive_counts_as_missing(archive, load, downloads, name):
    file = archive.folder / KINDS[name].train_list[0][0]
    file.write_bytes(file.read_bytes() + b"\0")
    title = name.replace("cifar", "CIFAR-")
    with pytest.raises(FileNotFoundError, match=f"{title} not found, and data.source.download is false"):
        load()
    assert downloads == []
    with pytest.raises(FileNotFoundError, match=rf"{title} not found and cannot be downloaded \(no such site\)"):
        load(download=True)
    assert len(downloads) == 1


def test_a_missing_data_set_raises_naming_the_folder_and_makes_none(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"paths\.data={tmp_path / 'nowhere'}: CIFAR-10.? not found"):
        load(root=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.data
@pytest.mark.slow
def test_the_real_cifar10_is_complete_and_has_the_published_statistics(real, decoder, check, fingerprint, golden):
    dataset = sources.cifar10(decoder(), real("cifar10"), download=False)
    check(dataset, 32, 3)
    assert dataset.classes == NAMES
    assert np.bincount(dataset.labels[dataset.train]).tolist() == [5000] * 10
    assert np.bincount(dataset.labels[dataset.test]).tolist() == [1000] * 10
    _, held_out = hold_out(dataset.labels[dataset.train], 5000)
    assert fingerprint(dataset.ids[dataset.train[held_out]]) == golden["cifar10"]["val"]
    assert fingerprint(dataset.ids[dataset.test]) == golden["cifar10"]["test"]
    mean, std = pixel_statistics(dataset.pixels, dataset.train)
    assert mean / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-4)
    assert std / 255 == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-4)
