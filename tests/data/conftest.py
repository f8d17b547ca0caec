"""What the tests of the data share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.decode import Decoded, Decoder, listing

SIDE = 8


@dataclass
class Things:
    """Image files and a cache for them; ``opened``: numbers of the images that were opened, in any order."""

    folder: Path
    files: list[Path]
    pixels: np.ndarray
    opened: list[int] = field(default_factory=list)

    def decode(self, side: int = SIDE, channels: int = 3, on_error: str = "raise") -> Decoded:
        decoder = Decoder(self.folder, side, channels, on_error)
        return decoder.decode("things", [str(file) for file in self.files], listing(self.files), self.open)

    def open(self, i: int) -> Image.Image:
        self.opened.append(i)
        return Image.open(self.files[i])

    def write(self, i: int, pixels: np.ndarray) -> None:
        """Make ``pixels`` image number i."""
        self.files[i].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(self.files[i], **({"lossless": True} if self.files[i].suffix == ".webp" else {}))

    def entries(self) -> list[Path]:
        """All that the cache's folder holds, besides locks."""
        return [path for path in self.folder.iterdir() if path.suffix != ".lock"]


@pytest.fixture(params=["png", "webp"])
def things(request, tmp_path):
    """Five 8×8 RGB images, and a cache that is made on demand."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    files = [tmp_path / "source" / "ab"[i % 2] / f"{i}.{request.param}" for i in range(len(pixels))]
    made = Things(tmp_path / "made" / "on" / "demand", files, pixels)
    for i, image in enumerate(pixels):
        made.write(i, image)
    return made
