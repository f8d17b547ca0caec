"""What configuration files may ask of folders: ``${class_folders:…}``, ``${content:…}`` and ``${expanded:…}``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from omegaconf import OmegaConf

PARTS = ("train", "val", "test")


def class_folders(root: str) -> int:
    """The number of class folders in ``root``/train.

    Raises:
        ValueError: there is no such folder, or it holds fewer than two.
    """
    train = _train(root)
    count = sum(entry.is_dir() and not entry.name.startswith(".") for entry in train.iterdir())
    if count < 2:
        raise ValueError(f"{train}: holds {count} class folders, at least 2 are needed")
    return count


def content(root: str) -> str:
    """A hash of the names and sizes (bytes) of the files ``root``/{train,val,test}/<class>/*, hidden ones aside.

    10 hex digits, the same for a copy.

    Raises:
        ValueError: there is no folder ``root``/train.
    """
    digest = hashlib.sha256()
    for folder in sorted(path for part in PARTS for path in (_train(root).parent / part).glob("[!.]*/")):
        place = f"{folder.parent.name}/{folder.name}"
        for name in sorted(name for name in os.listdir(folder) if not name.startswith(".")):
            try:
                size = os.stat(os.path.join(folder, name)).st_size
            except OSError:  # a link to nowhere
                size = -1
            digest.update(f"{place}/{name}\0{size}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:10]


def expanded(folder: str) -> str:
    """``folder`` with a home for ``~``, for Hydra, which takes it by its letter."""
    return str(Path(folder).expanduser())


def _train(root: str) -> Path:
    train = Path(root).expanduser() / "train"
    if not train.is_dir():
        raise ValueError(f"{train}: no such folder; images are looked for in <paths.data>/<data.name>/train/<class>/*")
    return train


def register() -> None:
    """Make them known to OmegaConf; may be called again."""
    for resolver in (class_folders, content, expanded):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
