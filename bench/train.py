"""Train, select, test and record one cell."""

from __future__ import annotations

import contextlib
import datetime
import io
import math
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import lightning as L
import numpy as np
import torch
from hydra.errors import InstantiationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from bench import callbacks, config, loggers, machine, profile
from bench.config import ConfigError
from bench.data.module import ImageData
from bench.module import Classifier
from bench.record import Metrics, RunRecord, Status, run_id
from bench.store import Store, StoreError, write_atomically


def run(cfg: DictConfig, sweep: str | None = None) -> RunRecord:
    """Train the cell that ``cfg`` describes; returns its record, which is then on disk.

    A cell that fails is recorded as ``failed``, its traceback in ``error.txt``. ``sweep`` names the sweep the cell
    belongs to.

    Raises:
        ConfigError: the configuration is wrong; nothing is written. In a sweep such a cell is recorded as failed.
        StoreError: the cell has an ok record and ``force`` is not set, or another process works on it.
        KeyboardInterrupt: the run was stopped; it is recorded as ``interrupted``.
    """
    resolved = config.check(cfg)
    store, name = Store(resolved["paths"]["results"]), run_id(resolved)
    if store.ok(name) and not resolved["force"]:
        raise StoreError(f"{name}: has an ok record; force=true runs it again")
    about = describe(resolved)
    work: Path | None = None

    def not_ok(status: Status, reason: str) -> RunRecord:
        folder = work or store.workspace(name)
        write_atomically(folder / "error.txt", traceback.format_exc())
        record = RunRecord(status=status, error=(reason.splitlines() or ["no reason given"])[0], **about)
        store.publish(record, folder)
        return record

    try:
        device = prepare_machine(resolved)
        peak = machine.PeakMemory(device)
        data, module = build(cfg, resolved)
        work = store.workspace(name)
        record = RunRecord(status="ok", **about, **train(cfg, resolved, data, module, device, peak, work, sweep))
        store.publish(record, work)
        return record
    except StoreError:
        raise
    except ConfigError as error:
        if sweep is None:
            if work is not None:
                store.discard(work)
            raise
        return not_ok("failed", str(error))
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        return not_ok("failed", f"{type(cause).__name__}: {cause}")
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second and ignores SIGINT
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
        not_ok("interrupted", "SIGTERM" if isinstance(stop, SIGTERMException) else "stopped by the user")
        raise KeyboardInterrupt from stop


def train(
    cfg: DictConfig,
    resolved: Mapping[str, Any],
    data: ImageData,
    module: Classifier,
    device: torch.device,
    peak: machine.PeakMemory,
    work: Path,
    sweep: str | None,
) -> dict[str, Any]:
    """Fit, select on validation data, test once; returns what the record holds beyond the description.

    Writes ``config.yaml``, ``metrics.csv``, ``predictions.npz`` and ``checkpoints/selected.ckpt`` into ``work``.

    Raises:
        FloatingPointError: a loss is not a finite number.
    """
    write_atomically(work / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(resolved))))
    shape = (resolved["data"]["in_channels"], resolved["data"]["image_size"])
    cost = {"params": profile.parameters(module.model), "macs": profile.macs(module.model, *shape)}

    throughput = callbacks.Throughput()
    bar, on_row = callbacks.progress(resolved["progress"], resolved["model"]["name"], resolved["trainer"]["max_epochs"])
    table = loggers.MetricsTable(work / "metrics.csv", on_row)
    checkpoint = selection(work / "checkpoints", validated=len(data.val) > 0)
    with loggers.finishing(), callbacks.quiet():
        logger = make_logger(cfg, resolved, work, sweep)
        all_loggers: list[Logger] = [table] if logger is None else [table, logger]
        trainer = make_trainer(resolved, device, data, all_loggers, [throughput, checkpoint, *bar])
        start = time.perf_counter()
        trainer.fit(module, datamodule=data)
        fit_seconds = time.perf_counter() - start
        selected_epoch = load_selected(module, Path(checkpoint.best_model_path))
        test = trainer.test(module, data.test_dataloader(), verbose=False)[0]
        save_predictions(work / "predictions.npz", module, data)
        selected_row = next(row for row in table.rows if row["epoch"] == selected_epoch)
        results = {
            "epochs": trainer.current_epoch,
            "selected_epoch": selected_epoch,
            "train_size": len(data.train),
            "val_size": len(data.val),
            "test_size": len(data.test),
            "metrics": collect_metrics({**selected_row, **test}),
            **cost,
            "train_images_per_s": throughput.median(),
            "fit_seconds": fit_seconds,
            "peak_memory_bytes": peak.read(),
            "precision": str(trainer.precision),
            "device": str(device),
        }
        loggers.summarise(logger, results)
    return results


def describe(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that are known before training."""
    return {
        "run_id": run_id(resolved),
        "model": resolved["model"]["name"],
        "dataset": resolved["data"]["name"],
        "protocol": resolved["data"]["protocol"],
        "seed": resolved["seed"],
        "image_size": resolved["data"]["image_size"],
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": dict(resolved),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "git_sha": machine.git_sha(),
    }


def prepare_machine(resolved: Mapping[str, Any]) -> torch.device:
    """Allocator, TF32 and random state; returns the device to train on.

    Raises:
        ConfigError: the device asked for is not on this machine.
    """
    machine.keep_freed_pages()
    machine.release_freed_pages()
    # TF32 goes with auto; whoever asks for 32-true gets 32 bits
    torch.set_float32_matmul_precision("high" if resolved["trainer"]["precision"] == "auto" else "highest")
    torch.backends.cudnn.allow_tf32 = resolved["trainer"]["precision"] == "auto"
    L.seed_everything(resolved["seed"], verbose=False)
    with mistakes():
        return machine.device(resolved["trainer"]["accelerator"])


def build(cfg: DictConfig, resolved: Mapping[str, Any]) -> tuple[ImageData, Classifier]:
    """The data and the module that the configuration describes.

    Raises:
        ConfigError: a constructor refuses its arguments, or the data are not there.
    """
    settings = resolved["data"]
    with mistakes():
        data = ImageData(
            source=hydra.utils.instantiate(cfg.data.source),
            augment=hydra.utils.instantiate(cfg.augment),
            seed=resolved["seed"],
            **{key: settings[key] for key in ("image_size", "in_channels", "num_classes", "val_size", "batch_size")},
        )
        model = hydra.utils.instantiate(cfg.model.net)
        if resolved["trainer"]["channels_last"]:
            model = model.to(memory_format=torch.channels_last)
        optimizer, scheduler = hydra.utils.instantiate(cfg.optimizer), hydra.utils.instantiate(cfg.scheduler)
        scheduler(optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}]), 10)  # refuse wrong arguments here
        module = Classifier(
            model,
            num_classes=settings["num_classes"],
            optimizer=optimizer,
            scheduler=scheduler,
            clip_norm=resolved["trainer"]["clip_norm"],
            **resolved["loss"],
        )
    return data, module


MISTAKES = (ValueError, TypeError, FileNotFoundError, ImportError)


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turn what constructors say of their arguments into ConfigError."""
    try:
        yield
    except MISTAKES as error:
        raise ConfigError(str(error)) from error
    except InstantiationException as error:
        if isinstance(error.__cause__, MISTAKES):
            raise ConfigError(str(error.__cause__)) from error
        raise


def selection(folder: Path, validated: bool) -> ModelCheckpoint:
    """Keeps the weights of the epoch with the best validation top-1 (the first of equals), or of the last epoch."""
    return ModelCheckpoint(
        folder, "selected", monitor="val/top1" if validated else None, mode="max", save_weights_only=True,
        save_on_train_epoch_end=not validated, enable_version_counter=False,
    )  # fmt: skip


def load_selected(module: Classifier, path: Path) -> int:
    """Load the selected weights; returns their epoch, counted from 1."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    return int(saved["epoch"]) + 1


def make_logger(cfg: DictConfig, resolved: Mapping[str, Any], work: Path, sweep: str | None) -> Logger | None:
    """The configured logger, told about the run; None for metrics.csv alone."""
    info = loggers.RunInfo(
        run_id=run_id(resolved),
        group=sweep,
        tags=(resolved["model"]["name"], resolved["data"]["name"]),
        config=dict(resolved),
        workspace=work,
    )
    return hydra.utils.instantiate(cfg.logger)(info)


def make_trainer(
    resolved: Mapping[str, Any],
    device: torch.device,
    data: ImageData,
    all_loggers: list[Logger],
    watchers: list[L.Callback],
) -> L.Trainer:
    """Lightning's Trainer, with nothing of its own but the loop."""
    options = resolved["trainer"]
    return L.Trainer(
        max_epochs=options["max_epochs"],
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=options["devices"],
        precision=machine.precision(options["precision"], device),  # type: ignore[arg-type] # Lightning's literals
        plugins=[LightningEnvironment()],  # one process, also where Slurm's variables promise more
        deterministic=options["deterministic"],
        callbacks=watchers,
        logger=all_loggers,
        log_every_n_steps=len(data.train_dataloader()),  # nothing is logged more often than once an epoch
        limit_val_batches=1.0 if len(data.val) else 0,
        num_sanity_val_steps=options["num_sanity_val_steps"],
        enable_progress_bar=any(isinstance(watcher, ProgressBar) for watcher in watchers),
        enable_model_summary=False,
    )


def save_predictions(path: Path, module: Classifier, data: ImageData) -> None:
    """``logits`` (n, num_classes) float16, ``labels`` (n,) int64 and ``ids`` (n,) str of the test samples."""
    limit = torch.finfo(torch.float16).max
    logits = torch.cat(module.test_logits).clamp(-limit, limit).numpy().astype(np.float16)
    content = io.BytesIO()
    dataset = data.dataset
    np.savez_compressed(content, logits=logits, labels=dataset.labels[data.test], ids=dataset.ids[data.test])
    write_atomically(path, content.getvalue())


def collect_metrics(logged: Mapping[str, float]) -> Metrics:
    """``{split}/{name}`` or ``{split}_{name}`` → split → name, for the record; without validation no ``val``."""
    metrics: Metrics = {}
    for key, value in logged.items():
        split, _, name = key.replace("/", "_").partition("_")
        if split in ("train", "val", "test") and name in ("top1", "top5", "loss"):
            if not math.isfinite(value):
                raise FloatingPointError(f"the {split} {name} is {value}")
            metrics.setdefault(split, {})[name] = value
    return metrics
