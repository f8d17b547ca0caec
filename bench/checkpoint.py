"""Checkpoints: the selected weights, and the full state a run needs to resume exactly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bench.averaging import weights_to_use
from bench.data.loader import BatchLoader
from bench.files import write_atomically
from bench.interrupt import Interrupted, Interrupts
from bench.models.layers import AUX_HEADS

SELECTED, LAST = "selected.ckpt", "last.ckpt"


def is_head(name: str) -> bool:
    """Whether a weight in Classifier's state belongs to an auxiliary head."""
    return name.startswith(f"model.{AUX_HEADS}.")


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message is one line that names it."""


def load(path: Path | str) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU: tensors, numbers and text; code in it is rejected, not run.

    Raises:
        CheckpointError: the file is damaged or contains anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # says nothing about the file's contents
        raise
    except Exception as error:  # many kinds, from pickle, zipfile and PyTorch
        reason = "contains code or is damaged, and is not loaded"
        raise CheckpointError(f"{path}: {reason}") from error


class AtomicIO(TorchCheckpointIO):
    """Checkpoint files are written atomically and loaded without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint without copying it in memory."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), lambda file: _save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See :func:`load`."""
        try:
            return load(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; force=true trains from scratch") from error


class _Written:
    """A file for torch.save that remembers why a write failed, which PyTorch does not report."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    written = _Written(file)
    try:
        torch.save(checkpoint, written)  # type: ignore[arg-type] # all it asks for
    except RuntimeError as error:
        if written.error is not None:
            raise written.error from error
        raise


class Checkpoints(Checkpoint):
    """Keeps the weights of the validated epoch with the best top-1 (the first on ties), or of the last epoch if there
    is no validation; and the full state in ``last.ckpt``, after each epoch and every ``minutes`` within one.

    The selected weights are in ``selected-<epoch>.ckpt`` until :meth:`finish`: those that ``last.ckpt`` refers to are
    removed only once it refers to others, so the two match whenever the process ends.

    A signal noted by ``interrupts`` ends the training with Interrupted once the state is saved. What ``use`` returns is
    saved with the selected weights: all that is needed to use them. ``check`` may raise before anything is written.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        interrupts: Interrupts,
        use: Callable[[], dict[str, Any]] = dict,
        check: Callable[[], None] = lambda: None,
    ):
        self.folder, self.minutes, self.interrupts = folder, minutes, interrupts
        self.use, self.check = use, check
        self.best_epoch: int | None = None
        self.best_top1 = -1.0
        self._random: dict[str, Any] | None = None
        self._loader: dict[str, Any] = {}
        self._saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_epoch": self.best_epoch, "best_top1": self.best_top1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epoch, self.best_top1 = state_dict["best_epoch"], state_dict["best_top1"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["random"] = gather(trainer, random_state())
        checkpoint["loader"] = loader_of(trainer).state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random, self._loader = checkpoint["random"][trainer.global_rank], checkpoint["loader"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupts.install()  # Lightning has installed its own handlers, which talk to other processes
        self._saved = time.monotonic()
        if self._random is not None:  # last, so that nothing draws from it before the training does
            set_random_state(self._random)
            # Lightning creates the loader before loading states, because the schedule asks for the number of steps
            loader_of(trainer).load_state_dict(self._loader)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch:  # followed by validation, if due, and the end of the epoch, which saves
            return
        due = time.monotonic() - self._saved > 60 * self.minutes
        stop, due = self._agree(trainer, batch_idx, self.interrupts.pending, due)
        if stop is not None or due:
            self._save(trainer)
        if stop is not None:
            raise Interrupted(stop)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, previous = trainer.current_epoch, self.best_epoch
        top1 = float(trainer.callback_metrics["val/top1"]) if validates(trainer) else self.best_top1
        last = epoch + 1 == trainer.max_epochs or trainer.should_stop  # by a callback of the caller's
        if top1 > self.best_top1 or (last and self.best_top1 < 0):
            self.best_epoch, self.best_top1 = epoch + 1, top1
            if trainer.is_global_zero:
                # auxiliary heads are not needed after training
                state = weights_to_use(trainer, pl_module)
                weights = {name: value for name, value in state.items() if not is_head(name)}
                content = {"epoch": epoch + 1, "state_dict": weights, "use": self.use()}
                AtomicIO().save_checkpoint(content, self._selected(self.best_epoch))
        self._save(trainer)
        if previous not in (None, self.best_epoch) and trainer.is_global_zero:
            self._selected(previous).unlink(missing_ok=True)
        stop, _ = self._agree(trainer, 0, self.interrupts.pending, False)
        if stop is not None:
            raise Interrupted(stop)

    def finish(self) -> Path:
        """Rename the selected weights to ``selected.ckpt``; returns the path."""
        self.check()
        target = self.folder / SELECTED
        if self.best_epoch is not None and (file := self._selected(self.best_epoch)).exists():
            file.replace(target)
        for left in self.folder.glob("selected-*.ckpt"):  # from an epoch that was interrupted and rerun
            left.unlink()
        return target

    def _selected(self, epoch: int | None) -> Path:
        return self.folder / f"selected-{epoch}.ckpt"

    def _save(self, trainer: L.Trainer) -> None:
        self.check()
        trainer.save_checkpoint(self.folder / LAST)
        self._saved = time.monotonic()

    def _agree(self, trainer: L.Trainer, batch_idx: int, stop: int | None, due: bool) -> tuple[int | None, bool]:
        """The first process's decision, shared every tenth batch because it synchronises the processes."""
        if trainer.world_size == 1:
            return stop, due
        if batch_idx % 10:
            return None, False
        return trainer.strategy.broadcast((stop, due))


def validates(trainer: L.Trainer) -> bool:
    """Whether this epoch is validated; if not, Lightning's metrics still contain those of an earlier one."""
    every = trainer.check_val_every_n_epoch
    assert every is not None
    return trainer.enable_validation and (trainer.current_epoch + 1) % every == 0


def loader_of(trainer: L.Trainer) -> BatchLoader:
    """The training loader."""
    loader = trainer.train_dataloader
    assert isinstance(loader, BatchLoader)
    return loader


def gather(trainer: L.Trainer, mine: Any) -> list[Any]:
    """The values of all training processes, by rank."""
    if trainer.world_size == 1:
        return [mine]
    everyones: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everyones, mine)
    return everyones


def random_state() -> dict[str, Any]:
    """The state of every random generator, as tensors, numbers and text."""
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "numpy": numpy | {"state": {"key": numpy["state"]["key"].tolist(), "pos": numpy["state"]["pos"]}},
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore every generator to a state returned by :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
    np.random.set_state(state["numpy"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
