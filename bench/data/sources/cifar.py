"""CIFAR-10 and CIFAR-100, from torchvision's files or from a tree of image files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.dataset import TEST, TRAIN, Dataset, assemble
from bench.data.decode import Decoder
from bench.data.sources.fetch import fetched
from bench.data.sources.folder import decode, scan

SIZES = (50_000, 10_000)


def cifar10(decoder: Decoder, root: str, download: bool = True, sizes: tuple[int, int] | None = SIZES) -> Dataset:
    """CIFAR-10: 60,000 photographs of 32×32 in 10 classes, officially 50,000 for training and 10,000 for testing.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009. ``root`` may hold an image-folder
    tree ``cifar10/{train,test}/<class>/*``; without one, torchvision's files in ``root`` are used, and downloaded
    first if ``download`` is set. Both give the images the same ids and the same order (by part, class and name), and
    so the same validation images.

    Raises:
        FileNotFoundError: neither is there, and it is not or cannot be downloaded.
        ValueError: the data have other ``sizes`` (training and test images; None for any), or an image cannot be read.
    """
    return _cifar("cifar10", decoder, Path(root).expanduser(), download, sizes)


def cifar100(decoder: Decoder, root: str, download: bool = True, sizes: tuple[int, int] | None = SIZES) -> Dataset:
    """CIFAR-100: as CIFAR-10, with 100 (fine) classes of 500 training and 100 test images each; tree ``cifar100/``."""
    return _cifar("cifar100", decoder, Path(root).expanduser(), download, sizes)


def _cifar(name: str, decoder: Decoder, root: Path, download: bool, sizes: tuple[int, int] | None) -> Dataset:
    tree = root / name
    dataset = decode(decoder, tree, *scan(tree)) if tree.is_dir() else _archive(name, decoder, root, download)
    skipped = len(dataset.skipped)
    found = (len(dataset.train), len(dataset.test))
    if (sizes is not None and sum(found) + skipped != sum(sizes)) or (sizes and not skipped and found != tuple(sizes)):
        raise ValueError(f"{tree}: has {found[0]} training and {found[1]} test images, not {sizes[0]} and {sizes[1]}")
    return dataset


def _archive(name: str, decoder: Decoder, root: Path, download: bool) -> Dataset:
    """torchvision's files, which it has checked against their checksums."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind, title = {"cifar10": (CIFAR10, "CIFAR-10"), "cifar100": (CIFAR100, "CIFAR-100")}[name]
    parts = fetched(
        title, root, lambda fetch: [kind(root, train=train, download=fetch) for train in (True, False)], download
    )
    classes = tuple(parts[0].classes)
    samples: list[tuple[str, int, int, Image.Image]] = []  # id, label, part, picture
    for part, word, half in zip((TRAIN, TEST), ("train", "test"), parts, strict=True):
        files = half.train_list if part == TRAIN else half.test_list
        names = [name for file, _ in files for name in _names(root / half.base_folder / file)]
        found = [
            (f"{word}/{classes[y]}/{Path(file).stem}", y, part, Image.fromarray(pixels))
            for file, y, pixels in zip(names, half.targets, half.data, strict=True)
        ]
        samples += sorted(found, key=lambda sample: (sample[1], sample[0]))
    return assemble(
        decoder,
        name,
        ids=[sample[0] for sample in samples],
        labels=np.array([sample[1] for sample in samples]),
        parts=np.array([sample[2] for sample in samples]),
        classes=classes,
        content=[kind.train_list, kind.test_list],  # with the files' checksums
        read=lambda i: samples[i][3],
    )


def _names(batch: Path) -> list[str]:
    """The names of a batch file's images; only after torchvision has checked the file, for it is a pickle."""
    with batch.open("rb") as file:
        return pickle.load(file, encoding="latin1")["filenames"]
