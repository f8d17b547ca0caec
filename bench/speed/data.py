"""The input pipeline against torchvision's transforms in a DataLoader."""

from __future__ import annotations

import json
import operator
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from bench import console, machine
from bench.data.augment import HorizontalFlip, RandomCrop, RandomResizedCrop, Transform
from bench.data.decode import Decoder
from bench.data.loader import BatchLoader, mapped
from bench.data.normalize import ChannelNormalize
from bench.data.pipeline import Pipeline
from bench.data.statistics import pixel_statistics
from bench.errors import MeasureError
from bench.interrupt import how_ended
from bench.speed import reference
from bench.speed.timing import interleaved, publish

BATCH = 128
ROUNDS = 5
OURS = "this pipeline"
SMALL, SMALL_THEIRS = 50_000, 12_800
"""32×32 images of an epoch: ours, and of the others, which take as long for fewer."""
PHOTOS, PHOTO_SIZE = 512, (500, 600)
"""JPEG files of about the size of Oxford Flowers' photographs."""

Contestants = dict[str, BatchLoader | DataLoader]


class Samples(Dataset):
    """What a data set class of torchvision gives: a sample at a time, opened and transformed.

    ``read`` and ``transform`` can be pickled: where processes are not forked, a DataLoader sends them to its workers.
    """

    def __init__(self, n: int, read: Callable[[int], Any], transform: Callable[[Any], Tensor]):
        self.n, self.read, self.transform = n, read, transform

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.read(i)), 0


def measure(resolved: Mapping[str, Any]) -> list[str]:
    """Measure, print and write, see the command's help; returns one line per failure."""
    machine.prepare_cpu()
    console.say("32×32: crop, flip, normalise")
    values = {"crop + flip + normalise, 32×32": rounds(small_images())}
    console.say(f"224×224: random resized crop, flip, normalise, from {PHOTOS} JPEG files")
    with tempfile.TemporaryDirectory() as folder:
        values["random resized crop + flip + normalise, 224×224"] = rounds(large_images(Path(folder)))
    tables = []
    for title, rates in values.items():
        median = {name: statistics.median(each) for name, each in rates.items()}
        rows = [[name, f"{rate:,.0f}", f"{median[OURS] / rate:.1f}"] for name, rate in median.items()]
        best = max(rate for name, rate in median.items() if name != OURS)
        rows.append(["than the best of the others", "", f"{median[OURS] / best:.1f}"])
        tables.append((title, ["", "images/s", f"{OURS} is × faster"], rows))
    built: dict[str, float] | None = None
    failed: list[str] = []
    try:
        built = cache_build(Path(resolved["paths"]["data"]).expanduser())
    except MeasureError as error:  # the rest took minutes
        failed.append(str(error))
    if built is not None:
        rows = [
            ["cache of 60,000 image files built", f"{built['build_seconds']:.0f} s"],
            ["peak memory above the imports, while building", f"{built['build_bytes'] / 2**20:,.0f} MiB"],
            ["peak memory above the imports, an epoch of batches", f"{built['epoch_bytes'] / 2**20:,.0f} MiB"],
        ]
        tables.append(("CIFAR-10", ["", "measured"], rows))
    publish(resolved, "data", tables, {"images_per_s": values, "cifar10": built}, failed=failed)
    return failed


def rounds(contestants: Contestants) -> dict[str, list[float]]:
    """Images/s of an epoch of each, in turns."""

    def epoch(batches: BatchLoader | DataLoader) -> Callable[[], int]:
        return lambda: sum(len(batch[1]) for batch in batches)

    return interleaved({name: epoch(batches) for name, batches in contestants.items()}, ROUNDS)


def small_images() -> Contestants:
    """32×32 images in memory, crop, flip, normalise; float32 batches."""
    pixels = np.random.default_rng(0).integers(0, 256, (SMALL, 32, 32, 3), dtype=np.uint8)
    mean, std = (values / 255 for values in pixel_statistics(pixels, np.arange(SMALL)))
    from_pil = v1.Compose(
        [v1.RandomCrop(32, 4), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(mean.tolist(), std.tolist())]
    )
    scale = v2.ToDtype(torch.float32, scale=True)
    from_tensor = v2.Compose(
        [v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), scale, v2.Normalize(mean.tolist(), std.tolist())]
    )
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    pil = Samples(SMALL_THEIRS, partial(_in_memory, pixels), from_pil)
    tensor = Samples(SMALL_THEIRS, partial(operator.getitem, tensors), from_tensor)
    return (
        {OURS: ours(pixels, 32, [RandomCrop(32, 4, "zero"), HorizontalFlip()])}
        | theirs("PIL, torchvision", pil)
        | theirs("tensors, torchvision v2", tensor)
    )


def large_images(folder: Path) -> Contestants:
    """224×224 images out of JPEG files, or of a cache of 256×256 pixels that was made of them; float32 batches."""
    files = photographs(folder)
    names = [file.name for file in files]
    decoder = Decoder(folder / "cache", 256, 3)
    pixels = decoder.decode("photographs", names, None, lambda i: Image.open(files[i])).pixels
    mean, std = (values / 255 for values in pixel_statistics(pixels, np.arange(len(pixels))))
    normalize = v1.Normalize(mean.tolist(), std.tolist())
    transform = v1.Compose([v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(), normalize])
    jpeg = Samples(len(files), partial(_opened, files), transform)
    return {OURS: ours(pixels, 224, [RandomResizedCrop(224), HorizontalFlip()])} | theirs("JPEG, torchvision", jpeg)


def _in_memory(pixels: np.ndarray, i: int) -> Image.Image:
    return Image.fromarray(pixels[i])


def _opened(files: list[Path], i: int) -> Image.Image:
    with Image.open(files[i]) as picture:
        return picture.convert("RGB")


def ours(pixels: np.ndarray, size: int, transforms: list[Transform]) -> BatchLoader:
    """Our batches."""
    index = np.arange(len(pixels))
    normalize = ChannelNormalize()
    normalize.fit(pixels, index)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    return BatchLoader(mapped(pixels), labels, index, Pipeline(size, normalize, transforms), BATCH, 0)


def theirs(name: str, samples: Samples) -> Contestants:
    """A DataLoader for each number of workers, who stay from the first epoch on."""
    return {
        f"{name}, {workers} worker{'s' * (workers != 1)}": DataLoader(
            samples, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )
        for workers in reference.workers()
    }


def photographs(folder: Path) -> list[Path]:
    """JPEG files with large shapes, small detail and about 40 KB each, as a camera's."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(PHOTOS):
        layers = [
            np.asarray(Image.fromarray(noise).resize(PHOTO_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
            for noise in (rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (5, 40, 160))
        ]
        pixels = 0.7 * layers[0] + 0.2 * layers[1] + 0.1 * layers[2]
        files.append(folder / f"{i}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(files[-1], quality=90)
    return files


def cache_build(root: Path) -> dict[str, float] | None:
    """Seconds and memory of building CIFAR-10's cache from image files, and of an epoch from it, in a process of
    its own; None without those files.

    Raises:
        MeasureError: that process failed.
    """
    if not (root / "cifar10").is_dir():
        console.say(f"paths.data={root}: has no folder cifar10, so its cache is not measured")
        return None
    console.say("CIFAR-10: cache of decoded images")
    with tempfile.TemporaryDirectory() as cache:
        script = [sys.executable, "-m", "bench.speed.cache_build", str(root), cache]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [how_ended(done.returncode)])[-1]
        raise MeasureError(f"building the cache of {root}/cifar10 has failed: {said}")
    return json.loads(done.stdout.splitlines()[-1])
