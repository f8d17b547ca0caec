"""Where images come from: one function a data set, all with the same result."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import URLError

import numpy as np

from bench.data import cache, splits


@dataclass(frozen=True)
class Dataset:
    """A data set decoded to one size.

    Attributes:
        pixels: (N, S, S, C) uint8, possibly memory-mapped.
        labels: (N,) int64, in [0, len(classes)).
        ids: (N,) str, what names a sample in its source.
        classes: class names, in the order of the labels.
        train: positions of the official training samples, before validation samples are held out.
        test: positions of the test samples.
    """

    pixels: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classes: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray


def digits(image_size: int, in_channels: int, test_size: int) -> Dataset:
    """1,797 scans of handwritten digits in 10 classes, 8×8 with 17 grey levels; shipped with scikit-learn.

    Alpaydin, Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository, 1998. Enlarged
    bilinearly to ``image_size`` pixels; ``test_size`` of them are drawn, stratified, always the same ones.

    Raises:
        ValueError: ``test_size`` leaves a class without a sample.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    source = load_digits()
    scans = (source.images * (255 / 16)).round().astype(np.uint8)  # (1797, 8, 8)
    side = (image_size, image_size)
    grey = np.stack([np.asarray(Image.fromarray(scan).resize(side, Image.Resampling.BILINEAR)) for scan in scans])
    labels = source.target.astype(np.int64)
    train, test = splits.hold_out(labels, test_size)
    return Dataset(
        pixels=np.repeat(grey[..., None], in_channels, axis=-1),
        labels=labels,
        ids=np.array([f"digit-{i:04d}" for i in range(len(labels))]),
        classes=tuple(map(str, source.target_names)),
        train=train,
        test=test,
    )


def cifar10(
    image_size: int,
    in_channels: int,
    root: str,
    cache_dir: str,
    download: bool = True,
    sizes: tuple[int, int] | None = (50_000, 10_000),
) -> Dataset:
    """CIFAR-10: 60,000 photographs of 32×32 in 10 classes, officially 50,000 for training and 10,000 for testing.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009. ``root`` may hold an image-folder
    tree ``cifar10/{train,test}/<class>/*``; without one, torchvision's files in ``root`` are used, and downloaded
    first if ``download`` is set. Both give the images the same ids and the same order (by split, class and name), and
    so the same validation images.

    Raises:
        FileNotFoundError: neither is there, and it is not or cannot be downloaded.
        ValueError: the tree lacks a split, its splits' classes differ, it has other ``sizes`` (training and test
            images; None for any), or an image cannot be read.
    """
    tree = Path(root).expanduser() / "cifar10"
    dataset = (
        _image_tree(tree, image_size, in_channels, Path(cache_dir))
        if tree.is_dir()
        else _cifar10_archive(Path(root).expanduser(), image_size, in_channels, download)
    )
    found = (len(dataset.train), len(dataset.test))
    if sizes is not None and found != tuple(sizes):
        raise ValueError(f"{tree}: has {found[0]} training and {found[1]} test images, not {sizes[0]} and {sizes[1]}")
    return dataset


def _cifar10_archive(root: Path, image_size: int, in_channels: int, download: bool) -> Dataset:
    """torchvision's files, which it has checked against their checksums."""
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, URLError) as error:
        hint = "" if download else ", and data.source.download is false"
        raise FileNotFoundError(f"paths.data={root}: CIFAR-10 is not there{hint} ({error})") from error
    classes = tuple(parts[0].classes)
    samples: list[tuple[str, np.ndarray, int]] = []  # id, pixels, label
    for split, part in zip(("train", "test"), parts, strict=True):
        files = part.train_list if split == "train" else part.test_list
        names = [name for file, _ in files for name in _names(root / part.base_folder / file)]
        rows = zip(names, part.data, part.targets, strict=True)
        found = [(f"{split}/{classes[y]}/{Path(name).stem}", pixels, y) for name, pixels, y in rows]
        samples += sorted(found, key=lambda sample: (sample[2], sample[0]))
    n_train = len(parts[0].data)
    return Dataset(
        pixels=np.stack([cache.fit(pixels, image_size, in_channels) for _, pixels, _ in samples]),
        labels=np.array([label for _, _, label in samples], dtype=np.int64),
        ids=np.array([name for name, _, _ in samples]),
        classes=classes,
        train=np.arange(n_train),
        test=np.arange(n_train, len(samples)),
    )


def _names(batch: Path) -> list[str]:
    """The names of a batch file's images; only after torchvision has checked the file, for it is a pickle."""
    with batch.open("rb") as file:
        return pickle.load(file, encoding="latin1")["filenames"]


def _image_tree(tree: Path, image_size: int, in_channels: int, cache_dir: Path) -> Dataset:
    """The images of ``tree/{train,test}/<class>/*``, decoded through the cache."""
    names: dict[str, list[str]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for split in ("train", "test"):
        folder = tree / split
        if not folder.is_dir():
            raise ValueError(f"{tree}: has no folder {split}/; expected are train/<class>/* and test/<class>/*")
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        classes[split] = tuple(entry.name for entry in entries if entry.is_dir())
        names[split] = [
            f"{split}/{label}/{file.name}"
            for label in classes[split]
            for file in sorted((folder / label).iterdir(), key=lambda file: file.stem)
            if not file.name.startswith(".")
        ]
    if not classes["train"] or classes["train"] != classes["test"]:
        raise ValueError(f"{tree}: the classes of train/ and of test/ differ, or there are none")
    files = names["train"] + names["test"]
    label_of = {label: i for i, label in enumerate(classes["train"])}
    return Dataset(
        pixels=cache.decoded(tree, files, image_size, in_channels, cache_dir),
        labels=np.array([label_of[file.split("/")[1]] for file in files], dtype=np.int64),
        ids=np.array([str(PurePosixPath(file).with_suffix("")) for file in files]),
        classes=classes["train"],
        train=np.arange(len(names["train"])),
        test=np.arange(len(names["train"]), len(files)),
    )
