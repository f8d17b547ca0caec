"""Callbacks of a run: cost measurements, the table of epochs, and terminal output."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from bench import console, machine
from bench.checkpoint import validates
from bench.data.loader import Batch
from bench.files import write_atomically
from bench.machine import PeakMemory

Row = dict[str, float]


class Guard(L.Callback):
    """Ends the training before an epoch is written if ``check`` raises."""

    def __init__(self, check: Callable[[], None]):
        self.check = check

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.check()


class Provenance(L.Callback):
    """What trains the run: ``here``, and what did before it was resumed."""

    def __init__(self, here: dict[str, Any]):
        self.here = here
        self._so_far: list[dict[str, Any]] = []

    def history(self) -> list[dict[str, Any]]:
        """All that trained the run, each once, in the order of their last steps."""
        return self._so_far or [self.here]

    def state_dict(self) -> dict[str, Any]:
        return {"so_far": self._so_far}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._so_far = state_dict["so_far"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Not called where all epochs are done, and only the test is left."""
        self._so_far = [*(one for one in self._so_far if one != self.here), self.here]


class Meter(L.Callback):
    """Images per second, seconds and peak memory of the training, over all its attempts.

    ``rates``: training images per second, one number per epoch, excluding validation and the epoch's own checkpoint;
    logged as train_images_per_s. An interrupted epoch is measured from where it was resumed.
    """

    def __init__(self, peak: PeakMemory) -> None:
        self.rates: list[float] = []
        self.peak = peak
        self._images, self._start = 0, 0.0
        self._before: dict[str, float] = {"seconds": 0.0, "peak": 0}
        self._begun = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates, "seconds": self.seconds(), "peak": self.peak_bytes()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rates, self._before = state_dict["rates"], state_dict

    def seconds(self) -> float:
        """Seconds since construction, plus those of earlier attempts up to the checkpoint."""
        return self._before["seconds"] + time.perf_counter() - self._begun

    def peak_bytes(self) -> int:
        """The peak over all attempts; of earlier ones that of the first process, whose state is kept."""
        return int(max(self._before["peak"], self.peak.read()))

    def median(self) -> float | None:
        """Median rate over the epochs; None before the end of the first."""
        return statistics.median(self.rates) if self.rates else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(pl_module.device)  # a resumed epoch has no start of its own

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restart(pl_module.device)

    def _restart(self, device: torch.device) -> None:
        machine.wait(device)
        self._images, self._start = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.labels)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module.device)  # Lightning validates inside the training epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._measure(trainer, pl_module.device)
        pl_module.log("train_images_per_s", self.rates[-1])

    def _measure(self, trainer: L.Trainer, device: torch.device) -> None:
        """Add the epoch's rate, once: also of one that a callback of the caller's cuts short."""
        if self._images:
            machine.wait(device)
            self.rates.append(self._images * trainer.world_size / (time.perf_counter() - self._start))
            self._images = 0


class EpochTable(Checkpoint):
    """One row per epoch: ``rows`` in memory and a CSV file on disk.

    Columns: ``epoch`` (from 1), ``seconds`` of training so far, and everything logged in the epoch, in alphabetical
    order, ``/`` as ``_``; validation columns are empty in epochs without validation. It is a Checkpoint because
    Lightning calls those after all logging, and precedes the one that saves, so that a checkpoint includes its epoch's
    row.
    """

    def __init__(self, path: Path, meter: Meter, on_row: Callable[[Row], None] = lambda row: None):
        self.path, self.meter, self.on_row = path, meter, on_row
        self.rows: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = {name.replace("/", "_"): float(value) for name, value in sorted(trainer.callback_metrics.items())}
        logged.pop("epoch", None)  # for loggers
        if not validates(trainer):
            logged = {name: value for name, value in logged.items() if not name.startswith("val_")}
        self.rows.append({"epoch": trainer.current_epoch + 1, "seconds": round(self.meter.seconds(), 3)} | logged)
        if not trainer.is_global_zero:
            return
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=max(self.rows, key=len).keys())
        table.writeheader()
        table.writerows(self.rows)
        write_atomically(self.path, text.getvalue())
        self.on_row(self.rows[-1])


class Bar(RichProgressBar):
    """Lightning's progress bar, labelled with the network and with epochs counted from 1."""

    def __init__(self, model: str, epochs: int):
        theme = RichProgressBarTheme(metrics_format=".3f", progress_bar="green", progress_bar_finished="green")
        super().__init__(refresh_rate=20, leave=False, theme=theme)
        self.model, self.epochs = model, epochs

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.model} {current_epoch + 1}/{self.epochs}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The metrics shown, without the logger's version."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


def progress(shown: str, model: str, epochs: int) -> tuple[list[L.Callback], Callable[[Mapping[str, float]], None]]:
    """How a run shows its progress: ``bar``, ``lines`` (one per epoch), ``none``, or ``auto``, a bar on a terminal.

    Returns Lightning callbacks and a function to call with each row of the metrics table.
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
    """Silence Lightning's notices, and its warnings about what is intended or what only Lightning can fix."""
    logs = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated")
            warnings.filterwarnings("ignore", message=r"(GPU|MPS) available but not used")  # trainer=cpu means it
            warnings.filterwarnings("ignore", message=r"The `srun` command is available")  # launchers use it
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")  # model.freeze means it
            warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log")  # torchmetrics has summed
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
