"""A disk cache for what is computed once and used by many runs.

An entry is a directory that appears atomically (a finished directory is renamed), is built once however many processes
request it (a file lock), and is rebuilt when its source changes (its name includes a hash of it) or when it is damaged
(``entry.json`` has the checksums of its arrays). Entries contain arrays and JSON, nothing that could run code.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench import console

ABOUT = "entry.json"
SLOW = 10e9
"""Bytes that take so long to verify that it is said."""
FORMAT = 1
"""Part of every key: increased when the format of entries changes."""


def entry(folder: Path, key: Any, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The entry ``<folder>-<hash of key>``, built first if it is missing or damaged.

    Args:
        folder: path and prefix of the entry's name.
        key: JSON-serialisable; everything the entry's content depends on.
        build: writes ``*.npy`` files into the given folder; its JSON-serialisable return value is stored with them.

    Returns:
        The entry's directory, and what ``build`` returned.
    """
    key = json.dumps([FORMAT, key])
    place = Path(f"{folder}-{hashlib.sha256(key.encode()).hexdigest()[:16]}").expanduser()
    version = _version(place)
    while (about := _about(place)) is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            if _version(place) == version:
                return place, _build(place, build)
        version = _version(place)  # another process has built it while we waited; all who did verify it at once
    return place, about


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the entry's lock; prints a message if another process has it."""
    lock = FileLock(f"{place}.lock", mode=0o666)  # others may write here, too
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.say(f"waiting for another process, which is building {place.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _version(place: Path) -> tuple[int, int] | None:
    """What tells an entry from one that was built later; None if it is missing."""
    try:
        stat = (place / ABOUT).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_ino, stat.st_mtime_ns


DAMAGED = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a damaged entry raises. Other OSErrors are the machine's, as of a network file system that does not
answer, or concern this user's permissions; the entry may be good, and in use by others.
"""


def _about(place: Path) -> dict[str, Any] | None:
    """What ``build`` returned, from ``entry.json``; None if the entry is missing, or damaged, which is printed."""
    try:
        written = json.loads((place / ABOUT).read_text())
        if _digest(written["content"]) != written["sha256"]:
            raise ValueError(f"{ABOUT} does not match what was written")
        stats = {name: (place / name).stat() for name in written["content"]["files"]}
        if (size := sum(stat.st_size for stat in stats.values())) > SLOW:
            console.say(f"verifying {place.name}, {size / 1e9:.0f} GB")
        for name, checksum in written["content"]["files"].items():
            stat = stats[name]
            if _checksum(place / name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) != checksum:
                raise ValueError(f"{name} does not match what was written")
        return written["content"]["about"]
    except DAMAGED as error:
        if not place.exists():
            return None
        reason = f"{Path(error.filename).name} is missing" if isinstance(error, FileNotFoundError) else str(error)
    console.say(f"{place}: damaged ({reason}), rebuilding")
    return None


@functools.lru_cache(maxsize=256)  # a process reads each version of a file once
def _checksum(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(place: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Build beside the entry and rename once everything is on disk; the entry's lock is held."""
    hidden = f".{place.name}-"
    for left in place.parent.glob(f"{glob.escape(hidden)}*"):
        shutil.rmtree(left, ignore_errors=True)  # left by a killed build: holding the lock, we know that none is active
    part = place.with_name(f"{hidden}{uuid.uuid4().hex}")
    part.mkdir()
    try:
        about = build(part)
        files = {}
        for file in sorted(part.iterdir()):
            with file.open("rb") as data:
                os.fsync(data.fileno())
                files[file.name] = hashlib.file_digest(data, "sha256").hexdigest()
        content = {"files": files, "about": about}
        with (part / ABOUT).open("w") as text:
            json.dump({"sha256": _digest(content), "content": content}, text)
            text.flush()
            os.fsync(text.fileno())
        if place.is_dir():  # damaged
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        part.rename(place)
        return about
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
