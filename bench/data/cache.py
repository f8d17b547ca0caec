"""What is computed once and kept on disk: decoded images, memory-mapped by every run that wants them.

An entry is a directory that appears whole (a finished directory is renamed), is built once however many processes
ask for it (a file lock), and is built anew when its source changes (its name holds a hash of that) or when it is
damaged (``entry.json`` holds the checksums of its arrays). Entries hold arrays and JSON, nothing that could run code.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from rich.progress import track

from bench import console

ABOUT = "entry.json"
ON_ERROR = ("raise", "skip")


def entry(folder: Path, key: Any, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The entry ``<folder>-<hash of key>``, built first if it is missing or damaged.

    Args:
        folder: path and beginning of the entry's name.
        key: JSON-able; all that the entry's content depends on.
        build: writes ``*.npy`` files into the folder it is given; what it returns, JSON-able, is kept with them.

    Returns:
        The entry's directory, and what ``build`` returned.
    """
    place = Path(f"{folder}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}")
    about = _about(place)
    if about is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            about = _about(place)  # somebody may have built it while we waited
            if about is None:
                about = _build(place, build)
    return place, about["about"]


def _about(place: Path) -> dict[str, Any] | None:
    """What ``entry.json`` says; None where the entry is missing or damaged."""
    try:
        about = json.loads((place / ABOUT).read_text())
        for name, checksum in about["sha256"].items():
            stat = (place / name).stat()
            if _checksum(place / name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) != checksum:
                raise ValueError(f"{name} is not what was written")
        return {"about": about["about"]}
    except FileNotFoundError as error:
        if not place.exists():
            return None
        reason = f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    console.say(f"{place}: damaged ({reason}), made anew")
    return None


@functools.lru_cache(maxsize=256)  # a process reads each state of a file once
def _checksum(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(place: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Build beside the entry and rename when all is on disk; the entry's lock is held."""
    hidden = f".{place.name}-"
    for left in place.parent.glob(f"{hidden}*"):  # by a build that was killed: the lock says that none is under way
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=place.parent, prefix=hidden))
    try:
        about = {"about": build(part)}
        sums = {}
        for file in sorted(part.iterdir()):
            with file.open("rb") as content:
                os.fsync(content.fileno())
                sums[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
        with (part / ABOUT).open("w") as text:
            json.dump({"sha256": sums, **about}, text)
            text.flush()
            os.fsync(text.fileno())
        part.chmod(0o777 & ~_umask())  # mkdtemp's are for their maker alone
        if place.exists():  # damaged
            shutil.rmtree(place)
        part.rename(place)
        return about
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@dataclass(frozen=True)
class Decoded:
    """``pixels``: (n, S, S, C) uint8, memory-mapped copy-on-write, so that nothing a run does reaches the file.
    ``kept``: (n,) which of the names they belong to. ``skipped``: names of the others, which could not be read.
    """

    pixels: np.ndarray
    kept: np.ndarray
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """Decodes images to ``side``×``side`` pixels of ``channels`` (1 or 3) channels, through the cache in ``folder``.

    ``on_error``: ``raise`` for the first image that cannot be read, ``skip`` leaves such images out and says so.
    """

    folder: str | Path
    side: int
    channels: int
    on_error: str = "raise"

    def decode(self, name: str, names: Sequence[str], content: Any, read: Callable[[int], Image.Image]) -> Decoded:
        """All images of a source, from the cache, or else decoded with all cores.

        Args:
            name: of the source.
            names: of its images, in order.
            content: JSON-able; differs when the images differ.
            read: opens image number i.

        Raises:
            ValueError: an image cannot be read and ``on_error`` is ``raise``; or ``on_error`` is another word.
        """
        if self.on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={self.on_error}: must be one of {', '.join(ON_ERROR)}")
        folder = Path(self.folder).expanduser() / f"{name}-{self.side}x{self.side}x{self.channels}"
        key = [name, list(names), content, self.side, self.channels, self.on_error]
        place, about = entry(folder, key, lambda part: self._write(part / "pixels.npy", name, names, read))
        if about["skipped"]:
            shown = ", ".join(about["skipped"][:3]) + (", …" if len(about["skipped"]) > 3 else "")
            console.say(f"{name}: skipped {len(about['skipped'])} images that cannot be read: {shown}")
        pixels = np.load(place / "pixels.npy", mmap_mode="c", allow_pickle=False)
        skipped = set(about["skipped"])
        kept = np.flatnonzero([name not in skipped for name in names])
        return Decoded(pixels, kept, tuple(about["skipped"]))

    def _write(
        self, file: Path, name: str, names: Sequence[str], read: Callable[[int], Image.Image]
    ) -> dict[str, list[str]]:
        """Decode all images into a .npy file; returns the names of those that were skipped."""
        shape = (len(names), self.side, self.side, self.channels)
        broken: dict[int, str] = {}

        def decode(i: int) -> None:
            try:
                with read(i) as picture:
                    array[i] = fit(picture, self.side, self.channels)
            except MemoryError:
                raise
            except Exception as error:  # besides OSError PIL lets SyntaxError, struct.error and others through
                if self.on_error == "raise":
                    raise ValueError(f"{names[i]}: not a readable image ({error})") from error
                broken[i] = names[i]

        array = _array(file, shape)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        note = f"decoding {name}"
        if not console.live():
            console.say(f"{note}: {len(names):,} images")
        with ThreadPoolExecutor(cores) as pool:  # PIL decodes without holding Python's lock
            work = pool.map(decode, range(len(names)))
            try:
                shown = console.live()
                for _ in track(work, note, len(names), console=console.out, disable=not shown, transient=True):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or all other images would be decoded first
                raise
        if broken:
            kept = [i for i in range(len(names)) if i not in broken]
            whole = _array(file.with_name("kept.npy"), (len(kept), *shape[1:]))
            for at, i in enumerate(kept):
                whole[at] = array[i]
            array = whole
            file.with_name("kept.npy").replace(file)
        array.flush()
        return {"skipped": [broken[i] for i in sorted(broken)]}


def _array(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file of uint8, mapped; its blocks are reserved, for on a full disk a write to a hole would kill us."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def fit(picture: Image.Image, side: int, channels: int) -> np.ndarray:
    """Scale the shorter side to ``side`` and crop the centre: → (side, side, channels) uint8.

    Bilinear with antialiasing; 1 channel is luminance (ITU-R 601), 3 are RGB.
    """
    if picture.mode.startswith("I;16"):  # which PIL would clip, not scale
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if "transparency" in picture.info:  # of a palette; PIL warns unless it is asked for
        picture = picture.convert("RGBA")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (side, side):
        width, height = picture.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(picture).reshape(side, side, channels)


def listing(files: Sequence[Path]) -> list[list[int] | None]:
    """Size (bytes), time of change and of status change (ns) of each file, None for one that is missing.

    A changed source is told by them.
    """

    def state(file: Path) -> list[int] | None:
        try:
            stat = file.stat()
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]

    return [state(file) for file in files]
