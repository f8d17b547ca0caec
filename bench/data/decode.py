"""Images decoded once to fixed-size uint8 arrays on disk, memory-mapped by every run that uses them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps
from rich.progress import Progress

from bench import console
from bench.cores import cores
from bench.data.cache import entry
from bench.errors import first

ON_ERROR = ("raise", "skip")
DECODING = 4
"""Higher whenever the same files are decoded to other pixels."""
OF_THE_IMAGE = {None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
"""Error numbers that say something about the image being read; None is Pillow's. All others are the machine's, as of a
network file system that does not answer, or concern this user's permissions, which must not be cached for others.
"""
TOGETHER = 64
"""Images decoded by one task, at most: a task for each would take gigabytes for millions."""
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8


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
        if isinstance(error, OSError) and error.errno not in OF_THE_IMAGE:
            raise
        raise UnreadableError(name, str(error)) from error


@dataclass(frozen=True)
class Decoded:
    """``pixels``: (n, S, S, C) uint8, memory-mapped, not writable. ``readable``: (n,) bool; the others are black.
    ``skipped``: the names of the others.
    """

    pixels: np.ndarray
    readable: np.ndarray
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
            shown = first([*skipped], 3)
            console.say(f"{name}: skipped {len(skipped)} of {len(names):,} images, which cannot be read: {shown}")
        # not copy-on-write: Linux refuses to map so a file that is larger than memory and swap
        pixels = np.load(place / "pixels.npy", mmap_mode="r", allow_pickle=False)
        return Decoded(pixels, np.array([name not in skipped for name in names], bool), tuple(skipped))

    def _write(
        self, file: Path, name: str, names: Sequence[str], read: Callable[[int], Image.Image]
    ) -> dict[str, dict[str, str]]:
        """Decode all images into a .npy file; returns the names of the skipped ones with the reasons."""
        array = _array(file, (len(names), self.side, self.side, self.channels))
        broken: dict[int, str] = {}
        together, stopped = max(1, min(TOGETHER, len(names) // (8 * cores()))), threading.Event()

        def decode(start: int) -> int:
            positions = range(start, min(start + together, len(names)))
            for i in positions:
                if stopped.is_set():
                    break
                try:
                    with naming(names[i]), read(i) as picture:
                        array[i] = fit(picture, self.side, self.channels)
                except UnreadableError as error:
                    if self.on_error == "raise":
                        raise
                    broken[i] = error.reason
            return len(positions)

        note = f"decoding {name}"
        if not console.live():
            console.say(f"{note}: {len(names):,} images")
        with ThreadPoolExecutor(cores()) as pool:  # PIL releases the GIL while decoding
            work = pool.map(decode, range(0, len(names), together))
            try:
                with Progress(console=console.out, disable=not console.live(), transient=True) as bar:
                    task = bar.add_task(note, total=len(names))
                    for done in work:
                        bar.advance(task, done)
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)  # or all remaining images would be decoded first
                raise
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
        ValueError: its values are signed, real, or have more than 16 bits, which says nothing about their range.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        # 0…65535, in PNM files whatever their maximum; PIL would clip them, not scale
        tags = getattr(picture, "tag_v2", {})  # of a TIFF file, whose values may have 12 bits
        values = (np.asarray(picture) >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
        picture = Image.fromarray(255 - values if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else values)
    elif picture.mode in ("I", "F"):
        raise ValueError("has values whose range is not known: signed, real, or of more than 16 bits")
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
