"""Train, select, test and record one cell."""

from __future__ import annotations

import datetime
import io
import math
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from bench import callbacks, config, costs, loggers, machine
from bench.assemble import build, make_logger, make_trainer, prepare_machine, selection
from bench.config import ConfigError
from bench.data.module import ImageData
from bench.module import Classifier, is_head
from bench.record import Metrics, RunRecord, Status, protocol, run_id
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
        data, module = build(cfg, resolved, device)
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
    cost = {"params": costs.parameters(module.model), "macs": costs.macs(module.model, *shape)}

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
            "skipped_images": len(data.dataset.skipped),
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
        "protocol": protocol(resolved),
        "seed": resolved["seed"],
        "image_size": resolved["data"]["image_size"],
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": dict(resolved),
        "hardware": machine.hardware(),
        "versions": machine.versions(),
        "git_sha": machine.git_sha(),
    }


def load_selected(module: Classifier, path: Path) -> int:
    """Load the selected weights, which have no auxiliary heads; returns their epoch, counted from 1."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = module.load_state_dict(saved["state_dict"], strict=False)
    assert not unexpected, unexpected
    assert all(map(is_head, missing)), missing
    return int(saved["epoch"]) + 1


def save_predictions(path: Path, module: Classifier, data: ImageData) -> None:
    """``logits`` (n, num_classes) float16, ``labels`` (n,) int64 and ``ids`` (n,) str of the test samples, and the
    names of the ``classes`` (num_classes,).
    """
    limit = torch.finfo(torch.float16).max
    logits = torch.cat(module.test_logits).clamp(-limit, limit).numpy().astype(np.float16)
    content = io.BytesIO()
    dataset = data.dataset
    np.savez_compressed(
        content,
        logits=logits,
        labels=dataset.labels[data.test],
        ids=dataset.ids[data.test],
        classes=np.array(dataset.classes),
    )
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
