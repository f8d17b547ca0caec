"""Training as this project does it, against a bare loop, the reference stack, and what the machine can do at most."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bench import console, machine
from bench.errors import MeasureError
from bench.speed import reference
from bench.speed.contestants import Job, bare_loop, convolution, fit, machine_settings, plain_fit
from bench.speed.timing import interleaved, publish
from bench.speed.turns import Contestant, together

ROUNDS = 5
OURS, BARE, CEILING = "ours", "bare loop", "ceiling"
EPOCHS = {
    "lenet": 25_600, "alexnet_bn": 1_280, "nin_bn": 1_024, "vgg11_bn": 1_280, "googlenet_bn": 512,
    "alexnet": 1_280, "googlenet": 512,
}  # fmt: skip
"""Networks, and images of an epoch on a machine of 10¹² FLOP/s: some seconds for each, there and, up to MOST_IMAGES, on
faster ones. Real epochs are longer, and what each costs once is less.
"""
BATCH = 128
LEAST = 2 * BATCH
"""Fewest images of an epoch."""
MOST = 40
"""Largest factor of EPOCHS; with more, the reference's DataLoader would take too long."""
MOST_IMAGES = 204_800
"""In an epoch. Each contestant has its images in its own memory, or the GPU's: 600 MiB of so many, and the bare loop
1.2 GiB of batches in bf16, 2.4 in 32 bits, too.
"""
CEILING_SHAPE = (128, 256, 16, 16)
"""Of the inputs of the ceiling's convolution."""
NOTE = (
    "Batches of 128. bare: the same steps without Lightning, augmentation and metrics, on batches made before; "
    "reference: a plain Lightning stack in 32 bits, with the best number of workers of its DataLoader; ceiling: the "
    "operations per second of one large convolution, of which ours reaches the share shown; 32 bits may pass it, as "
    "ours takes fewer multiplications than are counted. The quotients are medians over rounds, those to the reference "
    "with the least and the most of a round. MiB is ours."
)


def measure(resolved: Mapping[str, Any]) -> list[str]:
    """Measure, print and write, see the command's help; returns one line per failure."""
    device = machine.device(resolved["trainer"]["accelerator"])
    shared = machine_settings(resolved)
    flops, values = ceiling(device), {}
    failed: list[str] = []
    for name, images in EPOCHS.items():
        console.say(f"{name}: {ROUNDS} rounds")
        try:
            values[name] = compare([f"model={name}", *shared], scaled(images, flops), device)
        except MeasureError as error:
            failed.append(f"{name}: {error}")
            console.say(f"  {error}")
            continue
        told = "{} ours, {} bare, {} reference (workers: {})".format(*row(name, values[name])[1:5])
        console.say(f"  images/s: {told}")
    rows = [row(name, each) for name, each in values.items()]
    header = ["", OURS, "bare", "reference", "workers", "/ bare", "/ reference", "/ ceiling", "MiB"]
    tables = [("Training at 32×32, images/s", header, rows)]
    five = list(EPOCHS)[:5]
    if values.keys() >= set(five):
        mean = math.exp(statistics.fmean(math.log(values[name]["of_reference"]) for name in five))
        gain = [["geometric mean of the first five", f"{mean:.2f}"]]
        tables.append(("Times faster than the reference", ["", "×"], gain))
    if values:
        publish(resolved, "train", tables, values, NOTE, failed)
    return failed


def ceiling(device: torch.device) -> float:
    """FLOP/s of one large convolution."""
    with together({CEILING: Contestant(convolution, str(device), CEILING_SHAPE)}) as alone:
        return interleaved(alone, 1)[CEILING][0]


def scaled(images: int, flops: float) -> int:
    """Images of an epoch on a machine of so many FLOP/s, in whole batches: as many as take as long as ``images`` on one
    of 10¹² FLOP/s, but at least LEAST, at most MOST times ``images`` and at most MOST_IMAGES.
    """
    return max(LEAST, min(round(images * min(flops / 1e12, MOST) / BATCH) * BATCH, MOST_IMAGES))


def compare(settings: Sequence[str], images: int, device: torch.device) -> dict[str, Any]:
    """One network: images/s of each contestant in each round, FLOP/s of the ceiling, and what follows of them."""
    job = Job(tuple(settings), images, ROUNDS + 2)  # the last is not begun: a process that ends disturbs the others
    everyone = {
        OURS: Contestant(fit, job),
        BARE: Contestant(bare_loop, job),
        **{f"reference, {workers}": Contestant(plain_fit, job, workers) for workers in reference.workers()},
        CEILING: Contestant(convolution, str(device), CEILING_SHAPE),
    }
    with together(everyone) as contestants:
        rates = interleaved(contestants, ROUNDS)
        peaks = {name: each.last.peak_bytes for name, each in contestants.items()}
        flops = contestants[BARE].last.more["flops"]
    median = {name: statistics.median(each) for name, each in rates.items()}
    best = max((name for name in rates if name.startswith("reference")), key=lambda name: median[name])
    return {
        "images": images,
        "rates": rates,
        "reference": best,
        "of_bare": quotient(rates[OURS], rates[BARE]),
        "of_reference": quotient(rates[OURS], rates[best]),
        "of_ceiling": quotient([rate * flops for rate in rates[OURS]], rates[CEILING]),
        "flops_per_image": flops,
        "peak_bytes": peaks,
    }


def quotients(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """One's rate over the other's in the same round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def quotient(one: Sequence[float], other: Sequence[float]) -> float:
    """The median of the rounds' quotients."""
    return statistics.median(quotients(one, other))


def row(name: str, value: Mapping[str, Any]) -> list[str]:
    """Of the table."""
    median = {who: statistics.median(each) for who, each in value["rates"].items()}
    best = value["reference"]
    rounds = quotients(value["rates"][OURS], value["rates"][best])
    return [
        name,
        *(f"{median[who]:,.0f}" for who in (OURS, BARE, best)),
        best.rpartition(" ")[2],
        f"{value['of_bare']:.2f}",
        f"{value['of_reference']:.2f} ({min(rounds):.2f}–{max(rounds):.2f})",
        f"{value['of_ceiling']:.0%}",
        f"{value['peak_bytes'][OURS] / 2**20:,.0f}",
    ]
