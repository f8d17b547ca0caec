"""Time and memory of building CIFAR-10's cache from image files and of an epoch from it, alone in a process.

    python -m bench.speed.cache_build FOLDER CACHE

Prints a line of JSON: ``build_seconds``, and peak resident bytes above those after the imports, ``build_bytes`` and
``epoch_bytes``.
"""

from __future__ import annotations

import json
import sys
import time

import psutil
import torch

from bench import machine
from bench.data.augment import HorizontalFlip, RandomCrop
from bench.data.decode import Decoder
from bench.data.module import ImageData
from bench.data.normalize import ChannelNormalize
from bench.data.sources.cifar import SIZES, cifar10


def measure(root: str, cache: str, sizes: tuple[int, int] = SIZES) -> dict[str, float]:
    """See above; ``sizes``: the training and test images that ``root`` holds."""
    machine.prepare_cpu()
    imported, cpu = psutil.Process().memory_info().rss, torch.device("cpu")
    decoder, peak, start = Decoder(cache, 32, 3), machine.PeakMemory(cpu), time.perf_counter()
    cifar10(decoder, root, download=False, sizes=sizes)
    seconds, built = time.perf_counter() - start, peak.read()

    machine.release_freed_pages()
    peak = machine.PeakMemory(cpu)
    data = ImageData(
        lambda decoder: cifar10(decoder, root, download=False, sizes=sizes),
        decoder,
        image_size=32,
        num_classes=10,
        val_size=max(10, sizes[0] // 10),
        batch_size=128,
        augment=[RandomCrop(32), HorizontalFlip()],
        normalize=ChannelNormalize(),
        seed=0,
    )
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for _ in loader:
            pass
    return {"build_seconds": seconds, "build_bytes": built - imported, "epoch_bytes": peak.read() - imported}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2])))
