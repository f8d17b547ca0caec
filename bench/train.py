"""Train, select, test and record one cell."""

from __future__ import annotations

import contextlib
import datetime
import functools
import math
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from bench import callbacks, config, console, costs, distributed, loggers, machine, saved, weights_biases
from bench.assemble import build, make_logger, make_trainer, prepare_machine
from bench.averaging import MovingAverage
from bench.checkpoint import CheckpointError, Checkpoints, gather
from bench.data.loader import Shard
from bench.data.module import ImageData
from bench.errors import ConfigError
from bench.files import write_atomically
from bench.interrupt import Interrupted, Interrupts
from bench.module import Classifier
from bench.record import Metrics, RunRecord, Status, protocol, run_id
from bench.reporting import predictions
from bench.reporting.predictions import MISTAKES, Predictions
from bench.status import state_of
from bench.store import ERROR, LAST, RECORD, BusyError, DoneError, LostError, Store, check_ours


def run(cfg: DictConfig, sweep: str | None = None, watchers: Sequence[L.Callback] = ()) -> RunRecord:
    """Train the cell described by ``cfg`` and write its record to disk; returns the record.

    An unfinished cell resumes from its last checkpoint. A cell that fails is recorded as ``failed``, its traceback in
    ``error.txt``. ``sweep`` names the sweep the cell belongs to. ``watchers`` are extra callbacks during the fit and
    may stop it by raising an Interrupted of their own; they are ignored if the cell runs in several processes.

    Raises:
        ConfigError: the configuration is invalid; nothing is written. In a sweep such a cell is recorded as failed.
        DoneError: the cell has an ok record and ``force`` is not set.
        BusyError: another process is working on it.
        Interrupted: a signal stopped the run; it is recorded as ``interrupted``.
    """
    resolved = config.check(cfg)
    store, name = Store(resolved["paths"]["results"]), run_id(resolved)
    if store.ok(name) and not resolved["force"]:
        raise DoneError(f"{name}: has an ok record; force=true runs it again")
    machine.fit_threads()  # before the record notes the number of threads
    about = describe(resolved)
    work = store.workspace(name, since=_begun(store, sweep) if resolved["force"] else 0.0)
    if work.checkpoint is not None:
        console.say(f"{name}: resumes from its last checkpoint")

    check = functools.partial(check_ours, name, work.path, work.claim.owner)

    def interrupted(reason: str) -> None:
        if not (work.path / RECORD).exists():  # else a second signal came while the run's own record was published
            with contextlib.suppress(LostError):
                not_ok("interrupted", reason)

    def not_ok(status: Status, reason: str) -> RunRecord:
        check()
        with interrupts.deferring():
            if status == "failed":
                write_atomically(work.path / ERROR, traceback.format_exc())
            record = RunRecord(status=status, error=_first_line(reason), **about)
            store.publish(record, work)
        return record

    with Interrupts() as interrupts:
        try:
            if resolved["trainer"]["devices"] == 1:
                record = train(cfg, resolved, about, work.path, check, sweep, interrupts, watchers)
            else:
                record = distributed.train(resolved, about, work.path, check, sweep, interrupts)
            with interrupts.deferring():
                store.publish(record, work)
        except BusyError as error:
            if interrupts.pending is not None:  # the cell is another process's now, but this one was asked to stop
                raise Interrupted(interrupts.pending) from error
            raise
        except ConfigError as error:
            if sweep is None:
                store.discard(work)
                raise
            record = not_ok("failed", str(error))
        except (distributed.ProcessError, CheckpointError) as error:
            record = not_ok("failed", str(error))
        except Exception as error:
            record = not_ok("failed", reason_of(error))
        except Interrupted as stop:
            interrupted(str(stop))
            raise
        except KeyboardInterrupt as stop:
            interrupted("stopped by Ctrl-C")
            raise Interrupted(signal.SIGINT) from stop
        finally:
            work.claim.release()  # even if nothing could be recorded, as on a full disk
        if interrupts.pending is not None:  # this cell has ended, but what it is a part of has to stop
            if record.status == "failed":
                console.say(f"{record.run_id}: failed, {record.error}")
            raise Interrupted(interrupts.pending)
        return record


def reason_of(error: Exception) -> str:
    """``ValueError: why`` in one line; for an error wrapped by Hydra, its cause."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    return _first_line(f"{type(cause).__name__}: {cause}")


def _first_line(text: str) -> str:
    return (text.splitlines() or ["no reason given"])[0]


def fail(resolved: Mapping[str, Any], reason: str, details: str = "") -> RunRecord:
    """Record a cell as failed on behalf of its process, with the traceback that is known of it.

    Raises:
        BusyError: the process still counts as alive.
    """
    store = Store(resolved["paths"]["results"])
    about = describe(resolved)
    work = store.workspace(about["run_id"])
    try:
        write_atomically(work.path / ERROR, f"{details.strip() or reason}\n")
        record = RunRecord(status="failed", error=reason, **about)
        store.publish(record, work)
    finally:
        work.claim.release()
    return record


def _begun(store: Store, sweep: str | None) -> float:
    """The time from which checkpoints belong to this forced run, so that a requeued job can resume."""
    state = None if sweep is None else state_of(store.root / "sweeps" / sweep)
    return math.inf if state is None else float(state["started"])


def train(
    cfg: DictConfig,
    resolved: Mapping[str, Any],
    about: Mapping[str, Any],
    work: Path,
    check: Callable[[], None],
    sweep: str | None,
    interrupts: Interrupts,
    watchers: Sequence[L.Callback] = (),
) -> RunRecord:
    """Fit, select on validation data, test once; returns the record. ``about``: its fields from :func:`describe`.
    ``check`` raises LostError if ``work`` is no longer ours to write to.

    Writes ``config.yaml``, ``metrics.csv``, ``predictions.npz`` and ``checkpoints/selected.ckpt`` into ``work``. With
    several processes, all of them fit and only the first does the rest; the others' records have no results.

    Raises:
        ConfigError: a constructor rejects its arguments, or the device or the data are missing.
        FloatingPointError: a loss is not finite.
        LostError: another process has taken over.
        CheckpointError: the state to resume from cannot be loaded.
        Interrupted: a signal stopped the run.
    """
    rank, processes = distributed.rank(), resolved["trainer"]["devices"]
    if processes == 1:
        distributed.alone()
        rank = 0
    device = prepare_machine(resolved)
    peak = machine.PeakMemory(device)
    data, module = build(cfg, resolved, device)
    params = costs.parameters(module.model)
    macs = costs.macs(module.model, resolved["data"]["in_channels"], resolved["data"]["image_size"])
    if rank > 0:  # its own dropout, also after Lightning resets the seed; the weights come from the first process
        L.seed_everything(int(np.random.SeedSequence([resolved["seed"], rank]).generate_state(1)[0]), verbose=False)
    if rank == 0:
        check()
        write_atomically(work / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(resolved))))

    shown = resolved["progress"] if rank == 0 else "none"
    bar, on_row = callbacks.progress(shown, resolved["model"]["name"], resolved["trainer"]["max_epochs"])
    minutes = resolved["trainer"]["checkpoint_minutes"]
    checkpoints = Checkpoints(work / "checkpoints", minutes, interrupts, lambda: saved.use(resolved, data), check)
    with weights_biases.finishing(), callbacks.quiet():
        logger = make_logger(cfg, resolved, work, sweep) if rank == 0 else None
        here = {name: about[name] for name in ("hardware", "versions", "git_sha")}
        here["precision"] = machine.precision(resolved["trainer"]["precision"], device)
        here["device"] = str(device) if processes == 1 else f"{processes} × {device.type}"
        provenance = callbacks.Provenance(here)
        meter = callbacks.Meter(peak)  # whose clock starts: after the logger, which may have a server to wait for
        table = callbacks.EpochTable(work / "metrics.csv", meter, on_row)
        # not len(data.train_dataloader()), which without a Trainer is one process's
        steps = len(Shard(0, processes).batches(len(data.train), data.batch_size))
        loggers.watch(logger, resolved, module.model, steps)
        decay = resolved["trainer"]["ema"]
        average = [] if decay is None else [MovingAverage(decay)]
        watching = [callbacks.Guard(check), meter, provenance, *bar, *average, table, checkpoints, *watchers]
        trainer = make_trainer(resolved, device, data, logger, watching, processes, work)
        last = work / LAST
        with interrupts.deferring():
            trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None)
        fit_seconds = meter.seconds()
        others = 0  # the peak memory of the other processes
        if processes > 1:
            others = sum(gather(trainer, meter.peak_bytes())[1:])
            distributed.part()
            if rank > 0:
                return RunRecord(status="ok", **about)
            trainer = make_trainer(resolved, device, data, logger, [*bar], 1, work)
        selected_epoch = saved.load_weights(module.model, checkpoints.finish())
        test = trainer.test(module, datamodule=data, verbose=False)[0]
        check()
        save_predictions(work, module, data)
        *earlier, latest = provenance.history()
        record = RunRecord(
            status="ok",
            **(dict(about) | latest),
            earlier=earlier,
            epochs=len(table.rows),
            selected_epoch=selected_epoch,
            train_size=len(data.train),
            val_size=len(data.val),
            test_size=len(data.test),
            skipped_images=len(data.dataset.skipped),
            metrics=collect_metrics({**table.rows[selected_epoch - 1], **test}),
            params=params,
            macs=macs,
            train_images_per_s=meter.median(),
            fit_seconds=fit_seconds,
            peak_memory_bytes=meter.peak_bytes() + others,
        )
        loggers.conclude(logger, record, work, resolved, data.dataset.pixels, data.test)
    return record


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
        "versions": machine.versions() | machine.own_code(resolved),
        "git_sha": machine.git_sha(),
    }


def save_predictions(work: Path, module: Classifier, data: ImageData) -> None:
    """Write predictions.npz and mistakes.webp, the hardest mistakes side by side, for reports without the images."""
    logits, dataset = torch.cat(module.test_logits), data.dataset
    made = Predictions(
        logits=logits.numpy(),
        predicted=logits.argmax(dim=1).numpy(),
        labels=dataset.labels[data.test],
        ids=dataset.ids[data.test],
        classes=np.array(dataset.classes),
    )
    hardest = predictions.save(work, made).hardest()
    if len(hardest):
        write_atomically(work / MISTAKES, predictions.strip(dataset.pixels[data.test[hardest]]))


def collect_metrics(logged: Mapping[str, float]) -> Metrics:
    """``{split}/{name}`` or ``{split}_{name}`` → split → name, for the record; no ``val`` without validation."""
    metrics: Metrics = {}
    for key, value in logged.items():
        split, _, name = key.replace("/", "_").partition("_")
        if split in ("train", "val", "test") and name in ("top1", "top5", "loss"):
            if not math.isfinite(value):
                raise FloatingPointError(f"the {split} {name} is {value}")
            metrics.setdefault(split, {})[name] = value
    return metrics
