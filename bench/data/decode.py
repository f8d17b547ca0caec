"""Images decoded once to fixed-size uint8 arrays on disk, memory-mapped by every run that uses them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps
from rich.progress import track

from bench import console
from bench.data.cache import entry

ON_ERROR = ("raise", "skip")
DECODING = 2
"""Higher whenever the same files are decoded to other pixels."""
NOT_THE_IMAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENOSPC, errno.ESTALE}
"""Errors of the machine, which say nothing about the image being read."""


class UnreadableError(ValueError):
    """An image that cannot be decoded."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: not a readable image ({reason}); data.on_error=skip leaves such images out")
        self.name, self.reason = name, reason


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Name the image in errors raised while it is read.

    Raises:
        UnreadableError: the image cannot be decoded.
        OSError, MemoryError: a failure of the machine, which says nothing about the image.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # besides OSError, PIL raises SyntaxError, struct.error and others
        if isinstance(error, OSError) and error.errno in NOT_THE_IMAGE:
            raise
        raise UnreadableError(name, str(error)) from error


@dataclass(frozen=True)
class Decoded:
    """``pixels``: (n, S, S, C) uint8, memory-mapped copy-on-write, so that a run cannot change the file. ``kept``: (n,)
    positions of their names. ``skipped``: names of the others, which could not be read.
    """

    pixels: np.ndarray
    kept: np.ndarray
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """Decodes images to ``side``×``side`` pixels with ``channels`` (1 or 3) channels, through the cache in ``folder``.

    ``on_error``: ``raise`` at the first unreadable image, or ``skip`` such images with a message.
    """

    folder: str | Path
    side: int
    channels: int
    on_error: str = "raise"

    def decode(self, name: str, names: Sequence[str], content: Any, read: Callable[[int], Image.Image]) -> Decoded:
        """All images of a source, from the cache, or else decoded with all cores.

        Args:
            name: of the source.
            names: of its images, in order; unique.
            content: JSON-serialisable; differs if the images differ.
            read: opens image number i.

        Raises:
            ValueError: an image cannot be read and ``on_error`` is ``raise``; or ``on_error`` is invalid.
        """
        if self.on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={self.on_error}: must be one of {', '.join(ON_ERROR)}")
        folder = Path(self.folder) / f"{name}-{self.side}x{self.side}x{self.channels}"
        key = [name, list(names), content, self.side, self.channels, PIL.__version__, DECODING]
        place, about = entry(folder, key, lambda part: self._write(part / "pixels.npy", name, names, read))
        skipped: dict[str, str] = about["skipped"]  # name → reason
        if skipped and self.on_error == "raise":  # built by a run with skip
            raise UnreadableError(*next(iter(skipped.items())))
        if skipped:
            shown = ", ".join(list(skipped)[:3]) + (", …" if len(skipped) > 3 else "")
            console.say(f"{name}: skipped {len(skipped)} of {len(names):,} images, which cannot be read: {shown}")
        pixels = np.load(place / "pixels.npy", mmap_mode="c", allow_pickle=False)
        kept = np.flatnonzero([name not in skipped for name in names])
        return Decoded(pixels, kept, tuple(skipped))

    def _write(
        self, file: Path, name: str, names: Sequence[str], read: Callable[[int], Image.Image]
    ) -> dict[str, dict[str, str]]:
        """Decode all images into a .npy file; returns the names of the skipped ones with the reasons."""
        shape = (len(names), self.side, self.side, self.channels)
        broken: dict[int, str] = {}

        def decode(i: int) -> None:
            try:
                with naming(names[i]), read(i) as picture:
                    array[i] = fit(picture, self.side, self.channels)
            except UnreadableError as error:
                if self.on_error == "raise":
                    raise
                broken[i] = error.reason

        array = _array(file, shape)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        note = f"decoding {name}"
        if not console.live():
            console.say(f"{note}: {len(names):,} images")
        with ThreadPoolExecutor(cores) as pool:  # PIL releases the GIL while decoding
            work = pool.map(decode, range(len(names)))
            try:
                shown = console.live()
                for _ in track(work, note, len(names), console=console.out, disable=not shown, transient=True):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)  # or all remaining images would be decoded first
                raise
        if broken:
            kept = [i for i in range(len(names)) if i not in broken]
            whole = _array(file.with_name("kept.npy"), (len(kept), *shape[1:]))
            for at, i in enumerate(kept):
                whole[at] = array[i]
            array = whole
            file.with_name("kept.npy").replace(file)
        array.flush()
        return {"skipped": {names[i]: broken[i] for i in sorted(broken)}}


def _array(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new memory-mapped .npy file of uint8, with reserved blocks: on a full disk, a write to a hole would kill us."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    return array


def fit(picture: Image.Image, side: int, channels: int) -> np.ndarray:
    """Scale the shorter side to ``side`` and crop the centre: → (side, side, channels) uint8.

    Bilinear with antialiasing; channels as in :func:`in_channels`.
    """
    picture = ImageOps.fit(in_channels(picture, channels), (side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(side, side, channels)


def in_channels(picture: Image.Image, channels: int) -> Image.Image:
    """The picture in 8 bits: 1 channel is luminance (ITU-R 601), 3 are RGB.

    Raises:
        ValueError: its values have 32 bits, which says nothing about their range.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        # 0…65535, in PNM files whatever their maximum; PIL would clip them, not scale
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        raise ValueError("has values of 32 bits, whose range is not known; make them 8 or 16")
    if "transparency" in picture.info:  # of a palette; otherwise PIL warns
        picture = picture.convert("RGBA")
    return picture.convert("L" if channels == 1 else "RGB")


def listing(files: Sequence[str]) -> list[list[int] | None]:
    """Size (bytes), modification and status change times (ns) of each file, None for a missing one.

    They reveal a changed source.
    """

    def state(file: str) -> list[int] | None:
        try:
            stat = os.stat(file)
        except OSError:
            return None
        return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]

    return [state(file) for file in files]
