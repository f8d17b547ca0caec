"""CIFAR-10 and CIFAR-100, from torchvision's files or from a tree of image files."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from bench.data import cache
from bench.data.dataset import TEST, TRAIN, Dataset, assemble
from bench.data.decode import Decoder, listing
from bench.data.sources.fetch import fetched
from bench.data.sources.folder import decode, scan
from bench.rules import check_argument, or_null, pair_of, whole

T = TypeVar("T")

SIZES = (50_000, 10_000)
PAIR = or_null(pair_of(whole(1), "a list of the numbers of training and test images"))


def cifar10(decoder: Decoder, root: str, download: bool = True, sizes: tuple[int, int] | None = SIZES) -> Dataset:
    """CIFAR-10: 60,000 photographs of 32×32 in 10 classes, officially 50,000 for training and 10,000 for testing.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009. ``root`` may hold an image-folder
    tree ``cifar10/{train,test}/<class>/*``; without one, torchvision's files in ``root`` are used, and downloaded
    first if ``download`` is set. Both give the images the same ids and the same order (by part, class and name), and
    so the same validation images.

    Raises:
        FileNotFoundError: neither exists, and downloading is disabled or fails.
        ValueError: the data have other ``sizes`` (training and test images; None for any), or an image cannot be read.
    """
    return _cifar("cifar10", decoder, Path(root).expanduser(), download, sizes)


def cifar100(decoder: Decoder, root: str, download: bool = True, sizes: tuple[int, int] | None = SIZES) -> Dataset:
    """CIFAR-100: as CIFAR-10, with 100 (fine) classes of 500 training and 100 test images each; tree ``cifar100/``."""
    return _cifar("cifar100", decoder, Path(root).expanduser(), download, sizes)


def _cifar(name: str, decoder: Decoder, root: Path, download: bool, sizes: tuple[int, int] | None) -> Dataset:
    check_argument("data.source.sizes", sizes, PAIR)
    tree = root / name
    if tree.is_dir():
        files, labels, parts, classes = scan(tree)
        _check_sizes(tree, parts, sizes)
        return decode(decoder, tree, files, labels, parts, classes)
    return _archive(name, decoder, root, download, sizes)


def _archive(name: str, decoder: Decoder, root: Path, download: bool, sizes: tuple[int, int] | None) -> Dataset:
    """From torchvision's files, which are opened only if the cache lacks their index or pixels."""
    kind = _archives()[name]
    base = root / kind.base_folder
    files = [str(base / file) for file, _ in [*kind.train_list, *kind.test_list, [kind.meta["filename"], ""]]]
    load = _once(lambda: _load(name, root, download))
    if None in listing(files):
        load()
    place, about = cache.entry(
        Path(decoder.folder) / f"{name}-index",
        [kind.train_list, kind.test_list, listing(files)],  # the files' checksums, and what reveals changes to them
        lambda folder: _write_index(folder, load(), base),
    )
    index = {key: np.load(place / f"{key}.npy", allow_pickle=False) for key in ("ids", "labels", "parts", "rows")}
    _check_sizes(base, index["parts"], sizes)
    pixels = _once(lambda: np.concatenate([half.data for half in load()]))
    return assemble(
        decoder,
        name,
        ids=index["ids"].tolist(),
        labels=index["labels"],
        parts=index["parts"],
        classes=about["classes"],
        content=[kind.train_list, kind.test_list],
        read=lambda i: Image.fromarray(pixels()[index["rows"][i]]),
    )


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """``make``, called at most once, even from several threads."""
    lock, made = threading.Lock(), functools.cache(make)

    def get() -> T:
        with lock:
            return made()

    return get


def _check_sizes(place: Path, parts: np.ndarray, sizes: tuple[int, int] | None) -> None:
    found = tuple(int((parts == part).sum()) for part in (TRAIN, TEST))
    if sizes is not None and found != tuple(sizes):
        raise ValueError(f"{place}: has {found[0]} training and {found[1]} test images, not {sizes[0]} and {sizes[1]}")


def _archives() -> dict[str, Any]:
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}


def _load(name: str, root: Path, download: bool) -> tuple[Any, Any]:
    """torchvision's training and test images; it verifies the files' checksums."""
    kind = _archives()[name]
    return fetched(
        {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[name],
        root,
        lambda fetch: (kind(root, train=True, download=fetch), kind(root, train=False, download=fetch)),
        download,
    )


def _write_index(folder: Path, halves: tuple[Any, Any], base: Path) -> dict[str, Any]:
    """Write ids, labels, parts and rows (N,) of the images, by part, class and name; returns the class names.

    ``rows`` are their places among the training and then the test images of the archive.
    """
    classes = tuple(halves[0].classes)
    samples: list[tuple[int, int, str, int]] = []  # part, label, id, row
    for part, word, half in zip((TRAIN, TEST), ("train", "test"), halves, strict=True):
        files = half.train_list if part == TRAIN else half.test_list
        names = [name for file, _ in files for name in _names(base / file)]
        for name, label in zip(names, half.targets, strict=True):
            samples.append((part, label, f"{word}/{classes[label]}/{Path(name).stem}", len(samples)))
    for key, values in zip(("parts", "labels", "ids", "rows"), zip(*sorted(samples), strict=True), strict=True):
        np.save(folder / f"{key}.npy", np.array(values))
    return {"classes": list(classes)}


def _names(batch: Path) -> list[str]:
    """The names of a batch file's images; only after torchvision has verified the file, which is a pickle."""
    with batch.open("rb") as file:
        return pickle.load(file, encoding="latin1")["filenames"]
