"""Training as this project does it, against a bare loop, the reference stack, and what the machine can do at most."""

from __future__ import annotations

import copy
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import hydra.utils
import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.flop_counter import FlopCounterMode

from bench import callbacks, config, console, machine
from bench.assemble import build, make_model, make_trainer, prepare_machine
from bench.data.decode import Decoder
from bench.data.loader import Batch
from bench.module import Classifier
from bench.optim import parameter_groups
from bench.speed import MACHINE, reference, synthetic
from bench.speed.timing import interleaved, publish
from bench.speed.turns import Contestant, Turns, together

ROUNDS = 5
WORKERS = (0, 1, 2)
OURS, BARE, CEILING = "ours", "bare loop", "ceiling"
EPOCHS = {
    "lenet": 25_600, "alexnet_bn": 1_280, "nin_bn": 1_024, "vgg11_bn": 1_280, "googlenet_bn": 512,
    "alexnet": 1_280, "googlenet": 512,
}  # fmt: skip
"""Networks, and images of an epoch on a machine of 10¹² FLOP/s: some seconds for each. Real epochs are longer, and what
each costs once is less.
"""
BATCH = 128
LEAST = 2 * BATCH
"""Fewest images of an epoch."""
MOST = 40
"""Largest factor of EPOCHS; with more, the reference's DataLoader would take too long."""
NOTE = (
    "Batches of 128. bare: the same steps on batches made before; reference: a plain Lightning stack in 32 bits, with "
    "the best number of workers of its DataLoader; ceiling: the operations per second of one large convolution, which "
    "32 bits may pass: ours takes fewer multiplications than are counted. The quotients are medians over rounds; MiB "
    "is ours."
)
CEILING_SHAPE = (128, 256, 16, 16)
"""Of what goes into the convolution that is the ceiling."""


def measure(resolved: Mapping[str, Any]) -> None:
    """Measure, print and write; see the command's help."""
    device = machine.device(resolved["trainer"]["accelerator"])
    shared = machine_settings(resolved)
    flops, values = ceiling(device), {}
    for name, images in EPOCHS.items():
        console.say(f"{name}: {ROUNDS} rounds")
        values[name] = compare([f"model={name}", *shared], scaled(images, flops), device)
        told = "{} ours, {} bare, {} reference (workers: {})".format(*row(name, values[name])[1:5])
        console.say(f"  images/s: {told}")
    rows = [row(name, each) for name, each in values.items()]
    header = ["", OURS, "bare", "reference", "workers", "/ bare", "/ reference", "/ ceiling", "MiB"]
    five = [value["of_reference"] for name, value in values.items() if name in list(EPOCHS)[:5]]
    gain = [["geometric mean of the first five", f"{math.exp(statistics.fmean(map(math.log, five))):.2f}"]]
    tables = [
        ("Training at 32×32, images/s", header, rows),
        ("Times faster than the reference", ["", "×"], gain),
    ]
    publish(resolved, "train", tables, values, NOTE)


def ceiling(device: torch.device) -> float:
    """FLOP/s of one large convolution."""
    with together({CEILING: Contestant(convolution, str(device))}) as alone:
        return interleaved(alone, 1)[CEILING][0]


def scaled(images: int, flops: float) -> int:
    """Images of an epoch on a machine of so many FLOP/s, in whole batches: as many as take as long as ``images`` on one
    of 10¹² FLOP/s, but at least LEAST and at most MOST times ``images``.
    """
    return max(LEAST, round(images * min(flops / 1e12, MOST) / BATCH) * BATCH)


def machine_settings(resolved: Mapping[str, Any]) -> list[str]:
    """Those that say how the machine is used, for the configuration of a contestant."""
    return [f"{setting}={resolved['trainer'][setting.removeprefix('trainer.')]}" for setting in MACHINE]


def compare(settings: Sequence[str], images: int, device: torch.device) -> dict[str, Any]:
    """One network: images/s of each contestant in each round, FLOP/s of the ceiling, and what follows of them."""
    job = Job(tuple(settings), images, ROUNDS + 2)  # the last is not begun: a process that ends disturbs the others
    everyone = {
        OURS: Contestant(fit, job),
        BARE: Contestant(bare_loop, job),
        **{f"reference, {workers}": Contestant(plain_fit, job, workers) for workers in WORKERS},
        CEILING: Contestant(convolution, str(device)),
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


def quotient(one: Sequence[float], other: Sequence[float]) -> float:
    """The median over rounds of one's rate over the other's in the same round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def row(name: str, value: Mapping[str, Any]) -> list[str]:
    """Of the table."""
    median = {who: statistics.median(each) for who, each in value["rates"].items()}
    best = value["reference"]
    return [
        name,
        *(f"{median[who]:,.0f}" for who in (OURS, BARE, best)),
        best.rpartition(" ")[2],
        *(f"{value[key]:.2f}" for key in ("of_bare", "of_reference")),
        f"{value['of_ceiling']:.0%}",
        f"{value['peak_bytes'][OURS] / 2**20:,.0f}",
    ]


class Gate(L.Callback):
    """Lets a Trainer train an epoch a turn: all that happens between one epoch's start and the next one's."""

    def __init__(self, turns: Turns, images: int):
        self.turns, self.images, self.open = turns, images, False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close(pl_module.device)
        self.turns.wait()
        self.open = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close(pl_module.device)

    def _close(self, device: torch.device) -> None:
        if self.open:
            machine.wait(device)
            self.turns.done(self.images)
        self.open = False


class Job(NamedTuple):
    """What to train: ``settings`` as for ``bench``, so many random ``images``, so many ``epochs``."""

    settings: tuple[str, ...]
    images: int
    epochs: int

    def configured(self) -> tuple[DictConfig, dict[str, Any]]:
        """The configuration, as composed and as checked."""
        cfg = synthetic.composed([*self.settings, f"trainer.max_epochs={self.epochs}"], self.images)
        return cfg, config.check(cfg)


def fit(line: Connection, job: Job) -> None:
    """As ``bench`` trains, with its augmentation, metrics and table of epochs; without checkpoints, which a real
    epoch writes once, too, but which would weigh too much in a short one; nor have the others any.
    """
    cfg, resolved = job.configured()
    device = prepare_machine(resolved)
    turns = Turns(line, device)
    data, module = build(cfg, resolved, device)
    meter = callbacks.Meter(turns.peak)
    with tempfile.TemporaryDirectory() as folder, callbacks.quiet():
        table = callbacks.EpochTable(Path(folder) / "metrics.csv", meter)
        watchers = [Gate(turns, len(data.train)), meter, table]
        make_trainer(resolved, device, data, None, watchers, processes=1).fit(module, datamodule=data)


def plain_fit(line: Connection, job: Job, workers: int) -> None:
    """The reference stack, by a Trainer as it comes."""
    cfg, resolved = job.configured()
    device = machine.device(resolved["trainer"]["accelerator"])
    turns = Turns(line, device)
    decoder = Decoder(resolved["paths"]["cache"], resolved["data"]["image_size"], resolved["data"]["in_channels"])
    images = hydra.utils.instantiate(cfg.data.source)(decoder)
    pixels, labels = images.pixels[images.train], images.labels[images.train]
    net = make_model(cfg, resolved)
    module = reference.Plain(
        net, resolved["data"]["num_classes"], resolved["optimizer"]["lr"], resolved["loss"]["aux_weight"]
    )
    batches = reference.loader(pixels, labels, resolved["data"]["batch_size"], workers)
    with callbacks.quiet():
        trainer = L.Trainer(
            max_epochs=job.epochs,
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1,
            callbacks=[Gate(turns, len(pixels))],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches)


def bare_loop(line: Connection, job: Job) -> None:
    """The same steps on batches that were made before, by nothing but PyTorch."""
    cfg, resolved = job.configured()
    device = prepare_machine(resolved)
    turns = Turns(line, device)
    data, module = build(cfg, resolved, device)
    batches = list(data.train_dataloader())
    optimizer = module.make_optimizer(parameter_groups(module.model))
    scheduler = module.make_scheduler(optimizer, 1000 * len(batches))
    module.to(device).train()
    dtype = data.dtype
    flops = flops_per_image(module, batches[0])
    while True:
        turns.wait()
        for batch in batches:
            loss = step(module, optimizer, scheduler, batch, dtype)
        loss.item()  # a GPU has then finished
        turns.done(sum(len(batch.labels) for batch in batches), flops=flops)


def step(
    module: Classifier, optimizer: torch.optim.Optimizer, scheduler: LRScheduler, batch: Batch, dtype: torch.dtype
) -> Tensor:
    """One of training; returns its loss."""
    with torch.autocast(batch.images.device.type, dtype, enabled=dtype != torch.float32):
        loss = losses(module, batch)
    optimizer.zero_grad()
    loss.backward()
    if module.clip_norm is not None:
        nn.utils.clip_grad_norm_(module.model.parameters(), module.clip_norm)
    optimizer.step()
    scheduler.step()
    return loss


def losses(module: Classifier, batch: Batch) -> Tensor:
    """The cross entropies that a training step adds up."""
    out = module.model(batch.images)
    loss = F.cross_entropy(out.logits, batch.labels)
    for head in out.aux:
        loss = loss + module.aux_weight * F.cross_entropy(head, batch.labels)
    return loss


def flops_per_image(module: Classifier, batch: Batch) -> float:
    """Floating point operations of convolutions and linear layers, forward and backward; of local response
    normalisation none, though here its window is a convolution; of convolutions with fewer multiplications those of
    PyTorch's.
    """
    counted, counter = copy.deepcopy(module), FlopCounterMode(display=False)
    reference.plain(counted.model)
    with counter:
        losses(counted, batch._replace(images=batch.images.float())).backward()
    return counter.get_total_flops() / len(batch.labels)


def convolution(line: Connection, device: str) -> None:
    """One large 3×3 convolution, in 32 bits (TF32 on GPUs that have it) or, where that is faster, in bf16, which
    "processes" as many images as it does floating point operations.
    """
    machine.prepare_cpu()
    machine.allow_tf32(True)
    n, c, h, w = CEILING_SHAPE
    turns = Turns(line, torch.device(device))
    calls: dict[torch.dtype, Callable[[], Tensor]] = {}
    native = (
        machine.precision("auto", torch.device(device)) == "bf16-mixed"
    )  # without, a single bf16 call may take seconds
    for dtype in (torch.bfloat16, torch.float32) if native else (torch.float32,):
        images = torch.randn(CEILING_SHAPE, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        layer = nn.Conv2d(c, c, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        calls[dtype] = functools.partial(layer, images)

    def many(dtype: torch.dtype, seconds: float) -> int:
        done, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            for _ in range(10):
                out = calls[dtype]()
            out[0, 0, 0, 0].item()  # a GPU has then finished
            done += 10
        return done

    with torch.inference_mode():
        fastest = max(calls, key=lambda dtype: (many(dtype, 0.2), many(dtype, 0.5))[1])
        while True:
            turns.wait()
            turns.done(many(fastest, 0.5) * 2 * n * h * w * c * c * 9)
