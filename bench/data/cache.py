"""Images decoded once to fixed-size uint8 arrays on disk, memory-mapped by every run that wants them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from bench import console


def fit(image: np.ndarray | Image.Image, side: int, channels: int) -> np.ndarray:
    """Scale the shorter side to ``side`` and crop the centre: → (side, side, channels) uint8.

    Bilinear with antialiasing; 1 channel is luminance (ITU-R 601), 3 are RGB.
    """
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if picture.mode.startswith("I;16"):  # which PIL would clip, not scale
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.size != (side, side):
        width, height = picture.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(picture).reshape(side, side, channels)


def decoded(root: Path, files: Sequence[str], side: int, channels: int, cache_dir: Path) -> np.ndarray:
    """The images ``root/file``, (N, side, side, channels) uint8, memory-mapped.

    Decoded on the first call, with all cores; later calls and other processes map the same file. The file's name
    is a hash of the root, of every file's name, size and time of change, and of the size asked for, so a changed
    source is decoded anew. Pages are copied on write: nothing a run does reaches the file.

    Raises:
        ValueError: an image cannot be read; the message names it.
    """
    stats = [(root / file).stat() for file in files]
    listing = [[file, stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats, strict=True)]
    key = hashlib.sha256(json.dumps([str(root.resolve()), listing, side, channels]).encode()).hexdigest()[:16]
    cache_dir = cache_dir.expanduser()
    target = cache_dir / f"{root.name}-{side}x{side}x{channels}-{key}.npy"
    if not target.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=cache_dir, suffix=".part")
        os.close(handle)
        try:
            _decode(root, files, side, channels, Path(name))
            Path(name).replace(target)  # whole or not at all, also for those who build at the same time
        finally:
            Path(name).unlink(missing_ok=True)
    return np.load(target, mmap_mode="c")


def _decode(root: Path, files: Sequence[str], side: int, channels: int, target: Path) -> None:
    """Write the decoded images to ``target`` as a .npy file."""
    array = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(files), side, side, channels))

    def decode(i: int) -> None:
        try:
            with Image.open(root / files[i]) as image:
                array[i] = fit(image, side, channels)
        except Exception as error:  # besides OSError PIL lets SyntaxError, struct.error and others through
            raise ValueError(f"{root / files[i]}: not a readable image ({error})") from error

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:  # PIL decodes without holding Python's lock
        work = pool.map(decode, range(len(files)))
        note = f"decoding {root.name}"
        for _ in track(work, note, total=len(files), console=console.out, disable=not console.live(), transient=True):
            pass
    array.flush()
    with target.open("rb") as file:
        os.fsync(file.fileno())
