"""Trees of image files, one folder per class."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bench.data import splits
from bench.data.dataset import TEST, TRAIN, VAL, Dataset, assemble
from bench.data.decode import Decoder, listing
from bench.errors import first
from bench.resolvers import PARTS, is_class

EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
FOLDERS = dict(zip((TRAIN, VAL, TEST), PARTS, strict=True))


def folder(decoder: Decoder, root: str, val_share: float = 0.1, test_share: float = 0.2) -> Dataset:
    """Your own images: ``root/train/<class>/*``, and optionally ``root/val/<class>/*`` and ``root/test/<class>/*``.

    Without ``test/``, ``test_share`` of the images in ``train/`` are drawn, and without ``val/``, ``val_share`` of the
    rest; stratified, at least one per class, and always the same. ``val_share=0`` draws no validation images. Hidden
    files and files without an image extension are ignored. Photographs are rotated according to their EXIF data.

    Raises:
        FileNotFoundError: ``root`` has no folder train/.
        ValueError: a part has no class folders; a class has no images, or is missing from train/; a share is not in
            [0, 1); a class has a single image to draw from; an image cannot be read.
    """
    for name, share in (("val_share", val_share), ("test_share", test_share)):
        if type(share) not in (int, float) or not 0 <= share < 1 or (name == "test_share" and share == 0):
            raise ValueError(f"data.source.{name}={share}: must be a number in {'(' if 'test' in name else '['}0, 1)")
    tree = Path(root).expanduser()
    files, labels, parts, classes = scan(tree)
    if not (parts == TEST).any():
        _draw(labels, parts, classes, test_share, TEST)
    if not (parts == VAL).any() and val_share > 0:
        _draw(labels, parts, classes, val_share, VAL)
    return decode(decoder, tree, files, labels, parts, classes)


def _draw(labels: np.ndarray, parts: np.ndarray, classes: Sequence[str], share: float, part: int) -> None:
    """Move a share of the training images to another part: at least one per class, leaving at least one."""
    train = np.flatnonzero(parts == TRAIN)
    counts = np.bincount(labels[train], minlength=len(classes))
    if counts.min() < 2:
        lacking = f"{classes[int(counts.argmin())]} has only {counts.min()} training image to draw from"
        raise ValueError(f"{lacking}; add images, or folders val/ and test/")
    size = min(max(len(classes), round(share * len(train))), len(train) - len(classes))
    parts[train[splits.hold_out(labels[train], size)[1]]] = part


def scan(tree: Path) -> tuple[list[str], np.ndarray, np.ndarray, tuple[str, ...]]:
    """The images of a tree, ordered by part, class and name.

    Returns:
        Their files relative to ``tree``, their labels and parts, both (n,), and the class names.
    """
    if not (tree / "train").is_dir():
        raise FileNotFoundError(f"{tree}: has no folder train/; expected train/<class>/* and the like")
    classes = tuple(sorted(entry.name for entry in (tree / "train").iterdir() if is_class(entry)))
    files: list[str] = []
    labels: list[int] = []
    parts: list[int] = []
    for part, name in FOLDERS.items():
        if not (tree / name).is_dir():
            continue
        entries = sorted(filter(is_class, (tree / name).iterdir()))
        if not entries:  # to draw from train/ instead would be to test on other images than the user's
            raise ValueError(f"{tree / name}: has no class folders; expected {name}/<class>/*, or no folder {name}/")
        for entry in entries:
            if entry.name not in classes:
                raise ValueError(f"{entry}: is not a class of train/, which has {first(classes)}")
            found = images_in(entry)
            if not found:
                raise ValueError(f"{entry}: has no images")
            files += [f"{name}/{entry.name}/{file}" for file in found]
            labels += [classes.index(entry.name)] * len(found)
            parts += [part] * len(found)
    return files, np.array(labels), np.array(parts), classes


def images_in(folder: str | Path) -> list[str]:
    """Names of the image files in a folder, ordered by stem."""
    named = map(os.path.splitext, os.listdir(folder))
    found = sorted((stem, end) for stem, end in named if end.lower() in EXTENSIONS and not stem.startswith("."))
    return [stem + end for stem, end in found]


def upright(file: str | Path) -> Image.Image:
    """An image, rotated according to its EXIF data, if these can be read."""
    with Image.open(file) as picture:
        picture.load()
        with contextlib.suppress(SyntaxError, ValueError, struct.error):
            ImageOps.exif_transpose(picture, in_place=True)  # a copy would not know its format
    return picture


def decode(
    decoder: Decoder, tree: Path, files: Sequence[str], labels: np.ndarray, parts: np.ndarray, classes: Sequence[str]
) -> Dataset:
    """The data set of the images ``tree/<file>``."""
    root = tree.absolute()
    paths = [f"{root}/{file}" for file in files]
    ids = [file.rpartition(".")[0] for file in files]  # all have an extension
    if len(set(ids)) < len(ids):  # a.png beside a.jpg
        ids = list(files)

    return assemble(
        decoder,
        root.name,
        ids=ids,
        labels=labels,
        parts=parts,
        classes=classes,
        content=listing(paths),
        read=lambda i: upright(paths[i]),
        names=paths,
    )
