"""The input pipeline against torchvision's transforms in a DataLoader."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
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
from bench.data.loader import BatchLoader
from bench.data.normalize import ChannelNormalize
from bench.data.pipeline import Pipeline
from bench.speed.timing import interleaved, publish

BATCH = 128
ROUNDS = 5
WORKERS = (0, 1, 2)
PHOTOS, PHOTO_SIZE = 512, (500, 600)
"""JPEG files of about the size of Oxford Flowers' photographs."""

Row = dict[str, Any]


class Samples(Dataset):
    """What a data set class of torchvision gives: a sample at a time, opened and transformed."""

    def __init__(self, n: int, read: Callable[[int], Any], transform: Callable[[Any], Tensor]):
        self.n, self.read, self.transform = n, read, transform

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.read(i)), 0


def measure(resolved: Mapping[str, Any]) -> None:
    """Measure, print and write; see the command's help."""
    machine.keep_freed_pages()
    small, large = small_images(), large_images()
    built = cache_build(resolved)
    values = {"crop + flip + normalise, 32×32": small, "random resized crop + flip + normalise, 224×224": large}
    tables = []
    for title, rates in values.items():
        ours = rates["this pipeline"]
        rows = [[name, f"{rate:,.0f}", f"{ours / rate:.1f}"] for name, rate in rates.items()]
        best = max(rate for name, rate in rates.items() if name != "this pipeline")
        rows.append(["this pipeline / best of the others", "", f"{ours / best:.1f}"])
        tables.append((title, ["", "images/s", "this pipeline / it"], rows))
    if built is not None:
        rows = [
            ["cache of 60,000 image files built", f"{built['build_seconds']:.0f} s"],
            ["peak memory above the imports, while building", f"{built['build_bytes'] / 2**20:,.0f} MiB"],
            ["peak memory above the imports, an epoch of batches", f"{built['epoch_bytes'] / 2**20:,.0f} MiB"],
        ]
        tables.append(("CIFAR-10", ["", "measured"], rows))
    publish(Path(resolved["paths"]["results"]).expanduser() / "speed", "data", tables, {**values, "cifar10": built})


def small_images() -> dict[str, float]:
    """Images/s at 32×32 from images in memory."""
    console.say("32×32: crop, flip, normalise")
    pixels = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    from_pil = v1.Compose(
        [
            v1.RandomCrop(32, 4),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(mean, std),
        ]
    )
    from_tensor = v2.Compose(
        [
            v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std),
        ]
    )  # fmt: skip
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    contestants = {"this pipeline": ours(pixels, 32, [RandomCrop(32, 4, "zero"), HorizontalFlip()])}
    for workers in WORKERS:
        pil = Samples(6_400, lambda i: Image.fromarray(pixels[i]), from_pil)
        contestants[f"PIL, torchvision, {plural(workers)}"] = loader(pil, workers)
    for workers in WORKERS:
        contestants[f"tensors, torchvision v2, {plural(workers)}"] = loader(
            Samples(6_400, lambda i: tensors[i], from_tensor), workers
        )
    return interleaved(contestants, ROUNDS)


def large_images() -> dict[str, float]:
    """Images/s at 224×224, from JPEG files, or from a cache of 256×256 pixels that was made of them."""
    console.say(f"224×224: random resized crop, flip, normalise, from {PHOTOS} JPEG files")
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder))
        names = [file.name for file in files]
        decoder = Decoder(Path(folder) / "cache", 256, 3)
        pixels = decoder.decode("photographs", names, None, lambda i: Image.open(files[i])).pixels
        transform = v1.Compose(
            [
                v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(),
                v1.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )  # fmt: skip
        contestants = {"this pipeline": ours(pixels, 224, [RandomResizedCrop(224), HorizontalFlip()])}
        for workers in WORKERS:
            jpeg = Samples(len(files), lambda i: Image.open(files[i]).convert("RGB"), transform)
            contestants[f"JPEG, PIL, torchvision, {plural(workers)}"] = loader(jpeg, workers)
        return interleaved(contestants, ROUNDS)


def plural(workers: int) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{workers} worker" + "s" * (workers != 1)


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


def ours(pixels: np.ndarray, size: int, transforms: list[Transform]) -> Callable[[], int]:
    """An epoch of our batches, in the dtype that training would have them in."""
    index = np.arange(len(pixels))
    normalize = ChannelNormalize()
    normalize.fit(pixels, index)
    dtype = torch.bfloat16 if machine.precision("auto", torch.device("cpu")) == "bf16-mixed" else torch.float32
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    batches = BatchLoader(
        torch.from_numpy(pixels), labels, index, Pipeline(size, normalize, transforms), BATCH, 0, dtype=dtype
    )
    return lambda: sum(len(batch.labels) for batch in batches)


def loader(samples: Samples, workers: int) -> Callable[[], int]:
    """An epoch of a DataLoader's batches; its workers stay from the first epoch on."""
    batches = DataLoader(samples, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: sum(len(labels) for _, labels in batches)


def cache_build(resolved: Mapping[str, Any]) -> Row | None:
    """Seconds and memory of building CIFAR-10's cache from image files, and of an epoch from it, in a process of
    its own; None without those files.
    """
    root = Path(resolved["paths"]["data"]).expanduser()
    if not (root / "cifar10").is_dir():
        console.say(f"paths.data={root}: has no folder cifar10, so its cache is not measured")
        return None
    console.say("CIFAR-10: cache of decoded images")
    with tempfile.TemporaryDirectory() as cache:
        script = [sys.executable, "-c", BUILD, str(root), cache]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"building the cache of {root}/cifar10 failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


BUILD = """
import json, sys, time
import psutil, torch
from bench import machine
from bench.data.augment import HorizontalFlip, RandomCrop
from bench.data.decode import Decoder
from bench.data.module import ImageData
from bench.data.normalize import ChannelNormalize
from bench.data.sources import cifar10

machine.keep_freed_pages()
imported = psutil.Process().memory_info().rss
peak = machine.PeakMemory(torch.device("cpu"))
decoder = Decoder(sys.argv[2], 32, 3)
start = time.perf_counter()
cifar10(decoder, sys.argv[1], download=False)
seconds, built = time.perf_counter() - start, peak.read()
machine.release_freed_pages()
peak = machine.PeakMemory(torch.device("cpu"))
data = ImageData(
    lambda decoder: cifar10(decoder, sys.argv[1], download=False), decoder, 32, 10, 5000, 128,
    [RandomCrop(32), HorizontalFlip()], ChannelNormalize(), seed=0,
)
for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
    for batch in loader:
        pass
epoch = peak.read()
print(json.dumps({"build_seconds": seconds, "build_bytes": built - imported, "epoch_bytes": epoch - imported}))
"""
