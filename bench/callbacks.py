"""What watches a run: its throughput and its progress bar."""

from __future__ import annotations

import statistics
import time

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme


class Throughput(L.Callback):
    """Training images per second, epoch by epoch, validation and checkpoints excluded; logged as train_images_per_s.

    ``rates``: one number an epoch.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self._images, self._start = 0, 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        _wait(pl_module.device)
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # noqa: ANN001, D102
        self._images += len(batch.labels)
        if trainer.is_last_batch:  # before validation, which Lightning runs inside the training epoch
            _wait(pl_module.device)
            self.rates.append(self._images * trainer.world_size / (time.perf_counter() - self._start))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: D102
        pl_module.log("train_images_per_s", self.rates[-1])

    def median(self) -> float | None:
        """Median over the epochs; None before the first has ended."""
        return statistics.median(self.rates) if self.rates else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def progress_bar() -> RichProgressBar:
    """Lightning's bar, quiet about module names and versions."""
    theme = RichProgressBarTheme(metrics_format=".3f", progress_bar="green", progress_bar_finished="green")
    return RichProgressBar(refresh_rate=20, leave=False, theme=theme)
