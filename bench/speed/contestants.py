"""Who trains in turns: this project, a bare loop, the reference stack; and a convolution, the most a machine can do.

Each is the target of a process of its own, see ``turns.py``.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import time
from collections.abc import Callable, Mapping
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
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from bench import callbacks, config, machine
from bench.assemble import build, make_model, make_trainer, prepare_machine
from bench.data.decode import Decoder
from bench.data.loader import Batch
from bench.module import Classifier
from bench.optim import parameter_groups
from bench.speed import MACHINE, reference, synthetic
from bench.speed.turns import Turns


class Job(NamedTuple):
    """What to train: ``settings`` as for ``bench``, so many random ``images``, so many ``epochs``."""

    settings: tuple[str, ...]
    images: int
    epochs: int

    def configured(self) -> tuple[DictConfig, dict[str, Any]]:
        """The configuration, as composed and as checked."""
        cfg = synthetic.composed([*self.settings, f"trainer.max_epochs={self.epochs}"], self.images)
        return cfg, config.check(cfg)


def machine_settings(resolved: Mapping[str, Any]) -> list[str]:
    """Those that say how the machine is used, for the configuration of a contestant."""
    return [f"{setting}={resolved['trainer'][setting.removeprefix('trainer.')]}" for setting in MACHINE]


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
        make_trainer(resolved, device, data, None, watchers, processes=1, work=Path(folder)).fit(
            module, datamodule=data
        )


def plain_fit(line: Connection, job: Job, workers: int) -> None:
    """The reference stack, by a Trainer as it comes, with the threads that the quota of CPUs allows."""
    machine.fit_threads()  # like the others, so that a quota of CPUs does not decide
    cfg, resolved = job.configured()
    device = machine.device(resolved["trainer"]["accelerator"])
    turns = Turns(line, device)
    decoder = Decoder(resolved["paths"]["cache"], resolved["data"]["image_size"], resolved["data"]["in_channels"])
    images = hydra.utils.instantiate(cfg.data.source)(decoder)
    pixels, labels = images.pixels[images.train], images.labels[images.train]
    del images  # else all pixels are in memory twice
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
    """The same steps, of the same network, optimizer and precision, on batches that were made before: without
    Lightning, augmentation and metrics.
    """
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
    own = {torch.ops.aten.convolution_backward: _backward_flops}
    counted, counter = copy.deepcopy(module), FlopCounterMode(display=False, custom_mapping=own)
    reference.plain(counted.model)
    with counter:
        losses(counted, batch._replace(images=batch.images.float())).backward()
    return counter.get_total_flops() / len(batch.labels)


def _backward_flops(grad_out, x, w, _bias, _stride, _padding, _dilation, transposed, _more, _groups, mask, **_) -> int:  # type: ignore[no-untyped-def]
    """Of a convolution's backward pass, from the shapes: for the gradients of its input and weights, where they are
    asked for, each as many as forward. PyTorch's own count forgets the groups in those of the weights.
    """
    return sum(mask[:2]) * conv_flop_count(x, w, grad_out, transposed)


def convolution(line: Connection, device: str, shape: tuple[int, int, int, int]) -> None:
    """One large 3×3 convolution of inputs of that shape, in 32 bits (TF32 on GPUs that have it) or, where that is
    faster, in bf16, which "processes" as many images as it does floating point operations.
    """
    machine.prepare_cpu()
    machine.allow_tf32(True)
    n, c, h, w = shape
    turns = Turns(line, torch.device(device))
    calls: dict[torch.dtype, Callable[[], Tensor]] = {}
    # where bf16 is not native, a single call may take seconds
    native = machine.precision("auto", torch.device(device)) == "bf16-mixed"
    for dtype in (torch.bfloat16, torch.float32) if native else (torch.float32,):
        images = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
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
