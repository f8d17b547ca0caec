"""What watches a run: its throughput and what it shows in the terminal."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from bench import console
from bench.data.loader import Batch


class Throughput(L.Callback):
    """Training images per second, epoch by epoch, validation and checkpoints excluded; logged as train_images_per_s.

    ``rates``: one number an epoch.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self._images, self._start = 0, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _wait(pl_module.device)
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.labels)
        if trainer.is_last_batch:  # before validation, which Lightning runs inside the training epoch
            _wait(pl_module.device)
            self.rates.append(self._images * trainer.world_size / (time.perf_counter() - self._start))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("train_images_per_s", self.rates[-1])

    def median(self) -> float | None:
        """Median over the epochs; None before the first has ended."""
        return statistics.median(self.rates) if self.rates else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Bar(RichProgressBar):
    """Lightning's bar, named after the network, epochs counted from 1."""

    def __init__(self, model: str, epochs: int):
        theme = RichProgressBarTheme(metrics_format=".3f", progress_bar="green", progress_bar_finished="green")
        super().__init__(refresh_rate=20, leave=False, theme=theme)
        self.model, self.epochs = model, epochs

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.model} {current_epoch + 1}/{self.epochs}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The training loss, without the logger's version."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


def progress(shown: str, model: str, epochs: int) -> tuple[list[L.Callback], Callable[[Mapping[str, float]], None]]:
    """How a run shows where it is: ``bar``, ``lines`` (one an epoch), ``none``, or ``auto``, a bar on a terminal.

    Returns Lightning callbacks and what is to be called with each row of the metrics table.
    """
    if shown == "auto":
        shown = "bar" if console.live() else "lines"

    def line(row: Mapping[str, float]) -> None:
        val = f", val {row['val_top1']:.1%}" if "val_top1" in row else ""
        rate = f"{row['train_images_per_s']:,.0f} images/s"
        console.say(f"  {model} epoch {row['epoch']}/{epochs}: train {row['train_top1']:.1%}{val}, {rate}")

    def nothing(row: Mapping[str, float]) -> None:
        pass

    bar: list[L.Callback] = [Bar(model, epochs)] if shown == "bar" else []
    return bar, line if shown == "lines" else nothing


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's notices, and its warnings of what is meant or what only Lightning can mend."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
            warnings.filterwarnings("ignore", message=r"(GPU|MPS) available but not used")  # trainer=cpu means it
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # model.freeze means it
            yield
    finally:
        log.setLevel(level)
