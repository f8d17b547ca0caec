"""Resolvers for configuration files: ``${bench.class_folders:…}``, ``${bench.content:…}``, ``${bench.expanded:…}``,
``${bench.official:…}``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf

PARTS = ("train", "val", "test")
_remembered: dict[str, str] | None = None


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within the block, ``content`` looks at a folder once: millions of files take minutes, and a sweep's cells have
    them in common.
    """
    global _remembered
    _remembered = {}
    try:
        yield
    finally:
        _remembered = None


def class_folders(root: str) -> int:
    """The number of class folders in ``root``/train.

    Raises:
        ValueError: there is no such folder, or it contains fewer than two.
    """
    train = _train(root)
    count = sum(map(is_class, train.iterdir()))
    if count < 2:
        raise ValueError(f"{train}: at least 2 class folders are needed, found {count}")
    return count


def is_class(entry: Path) -> bool:
    """Whether it is a folder with the images of a class."""
    return entry.is_dir() and not entry.name.startswith(".")


def content(root: str) -> str:
    """A hash of the names and sizes (bytes) of the images ``root``/{train,val,test}/<class>/*.

    10 hex digits, the same for a copy.

    Raises:
        ValueError: there is no folder ``root``/train.
    """
    if _remembered is None:
        return _content(root)
    if root not in _remembered:
        _remembered[root] = _content(root)
    return _remembered[root]


def _content(root: str) -> str:
    from bench.data.sources.folder import images_in  # NumPy and Pillow, which few configurations need

    digest = hashlib.sha256()
    for folder in sorted(path for part in PARTS for path in (_train(root).parent / part).glob("[!.]*/")):
        place = f"{folder.parent.name}/{folder.name}"
        for name in sorted(images_in(folder)):
            try:
                size = os.stat(os.path.join(folder, name)).st_size
            except OSError:  # a broken link
                size = -1
            digest.update(f"{place}/{name}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:10]


def expanded(folder: str) -> str:
    """``folder`` with ``~`` expanded, for Hydra, which takes it literally."""
    return str(Path(folder).expanduser())


def official(sizes: Sequence[int] | None, usual: Sequence[int]) -> str:
    """The protocol of a data set of so many training and test images, None for any: ``official`` if there are as many
    as ``usual``, else ``own`` with their numbers.
    """
    told = [*sizes] if isinstance(sizes, Sequence) and not isinstance(sizes, str) else []  # the source refuses others
    return "official" if told == [*usual] else "-".join(map(str, ("own", *told)))


def _train(root: str) -> Path:
    train = Path(root).expanduser() / "train"
    if not train.is_dir():
        wanted = "images are read from train/<class>/* of data.source.root, by default <paths.data>/<data.name>"
        raise ValueError(f"{train}: no such folder; {wanted}")
    return train


def register() -> None:
    """Register the resolvers with OmegaConf; may be called repeatedly."""
    for resolver in (class_folders, content, expanded, official):
        # with a prefix: they are registered in all programs of the environment that use Hydra, which loads its plugins
        OmegaConf.register_new_resolver(f"bench.{resolver.__name__}", resolver, replace=True)
