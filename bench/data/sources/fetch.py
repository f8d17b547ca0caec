"""Files that exist, or are downloaded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from bench.rules import SWITCH, check_argument

T = TypeVar("T")


def fetched(title: str, root: Path, load: Callable[[bool], T], download: bool) -> T:
    """``load(False)``, or if that fails ``load(True)``, which may download; by one process at a time.

    Args:
        title: of the data set, for messages.
        root: the folder of the data sets.
        load: takes whether to download; raises RuntimeError or OSError if files are missing or damaged.
        download: whether downloading is allowed.

    Raises:
        FileNotFoundError: the files are missing, and downloading is disabled or fails.
        ValueError: ``download`` is neither true nor false.
    """
    check_argument("data.source.download", download, SWITCH)
    try:
        return load(False)
    except (RuntimeError, OSError) as error:
        if not download:
            hint = f"{title} not found, and data.source.download is false ({error})"
            raise FileNotFoundError(f"paths.data={root}: {hint}") from error
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock", mode=0o666):
            return load(True)
    except (RuntimeError, OSError) as error:
        inside = "; it has a folder train/, so name the folder above it" if (root / "train").is_dir() else ""
        problem = f"{title} not found and cannot be downloaded{inside} ({error})"
        raise FileNotFoundError(f"paths.data={root}: {problem}") from error
