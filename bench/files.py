"""Files: written completely or not at all; folders as settings name them, and whether they can be written."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bench.errors import ConfigError


def write_atomically(path: Path, data: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file completely or not at all: temporary file, fsync, rename; ``data`` may be a function that writes."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # not the temporary file's name, or none
    finally:
        with contextlib.suppress(OSError):  # it is gone when renamed; any other error would hide the first
            part.unlink()


def expanded(place: Path | str, setting: str = "paths.results") -> Path:
    """The path with ``~`` expanded; ``setting`` is the setting that names it, empty if it is an argument of its own.

    Raises:
        ConfigError: it names the home of a user that does not exist.
    """
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{setting}{'=' * bool(setting)}{place}: no such user's home") from error


def is_folder(path: Path) -> bool:
    """Whether it is a folder that we can see: Path.is_dir raises if a parent folder may not be entered."""
    return os.path.isdir(path)  # noqa: PTH112


def check_writable(folder: Path, setting: str = "paths.results") -> None:
    """Raise ConfigError if the folder, or files in it, cannot be created; creates nothing.

    ``setting`` is the setting that names the folder.
    """
    places = (folder, *folder.absolute().parents)
    ancestor = next(path for path in places if os.path.exists(path))  # noqa: PTH110 - Path.exists, see is_folder
    effective = os.access in os.supports_effective_ids
    if not ancestor.is_dir():
        raise ConfigError(f"{setting}={folder}: {ancestor} is not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK, effective_ids=effective):
        raise ConfigError(f"{setting}={folder}: {ancestor} is not writable")
