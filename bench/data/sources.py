"""Where images come from: one function a data set, all with the same result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def cifar10(image_size: int, in_channels: int, root: str, cache_dir: str, download: bool = True) -> Dataset:
    """CIFAR-10: 60,000 photographs of 32×32 in 10 classes, officially 50,000 for training and 10,000 for testing.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009. ``root`` may hold an image-folder
    tree ``cifar10/{train,test}/<class>/*``; without one, torchvision's files in ``root`` are used, and
    downloaded first if ``download`` is set.

    Raises:
        FileNotFoundError: neither is there and ``download`` is not set.
        ValueError: the tree lacks a split, its splits' classes differ, or an image cannot be read.
    """
    tree = Path(root).expanduser() / "cifar10"
    if tree.is_dir():
        return _image_tree(tree, image_size, in_channels, Path(cache_dir))
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(Path(root).expanduser(), train=train, download=download) for train in (True, False)]
    except RuntimeError as error:  # torchvision: "Dataset not found or corrupted. You can use download=True …"
        raise FileNotFoundError(f"paths.data={root}: holds no CIFAR-10, and data.source.download is false") from error
    pixels = np.concatenate([part.data for part in parts])
    counts = [len(part.data) for part in parts]
    return Dataset(
        pixels=np.stack([cache.fit(image, image_size, in_channels) for image in pixels]),
        labels=np.concatenate([np.asarray(part.targets, dtype=np.int64) for part in parts]),
        ids=np.array(
            [f"{split}/{i:05d}" for split, n in zip(("train", "test"), counts, strict=True) for i in range(n)]
        ),
        classes=tuple(parts[0].classes),
        train=np.arange(counts[0]),
        test=np.arange(counts[0], sum(counts)),
    )


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
            for file in sorted((folder / label).iterdir())
            if not file.name.startswith(".")
        ]
    if not classes["train"] or classes["train"] != classes["test"]:
        raise ValueError(f"{tree}: the classes of train/ and of test/ differ, or there are none")
    files = names["train"] + names["test"]
    label_of = {label: i for i, label in enumerate(classes["train"])}
    return Dataset(
        pixels=cache.decoded(tree, files, image_size, in_channels, cache_dir),
        labels=np.array([label_of[file.split("/")[1]] for file in files], dtype=np.int64),
        ids=np.array(files),
        classes=classes["train"],
        train=np.arange(len(names["train"])),
        test=np.arange(len(names["train"]), len(files)),
    )
