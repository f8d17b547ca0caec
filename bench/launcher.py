"""What all launchers of a sweep share: each cell is submitted to a queue, reported when it ends, and never lost.

The queues are those of Ray and this process (bench.queues), and of Slurm (bench.slurm). What crosses from process to
process is a cell's resolved configuration one way and how it ended the other; all else is in the records.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra import compose
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from bench import console, resolvers
from bench.claim import EXPIRY
from bench.config import need, resolved
from bench.errors import ConfigError
from bench.interrupt import Interrupted, Interrupts
from bench.record import RunRecord, run_id
from bench.rules import Rule, check_keys, check_value, choice, or_null, whole
from bench.status import cell_line, cells_of, state_of, stopped
from bench.store import BusyError, DoneError, Store

POLL = 5.0
"""Seconds between two looks at cells that another sweep works on."""


@dataclass(frozen=True)
class Cell:
    """A cell of a sweep: its name and its resolved configuration."""

    run_id: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a cell ended: the status of its record; ``busy``, another process has it; or ``lost``, and why: in a line
    and, if there is more, in full.
    """

    cell: Cell
    status: str
    reason: str = ""
    details: str = ""


class Queue(Protocol):
    """Runs cells, some or all at once."""

    def submit(self, cell: Cell) -> None:
        """Put a cell into the queue."""

    def wait(self, seconds: float | None) -> Ended | None:
        """The next cell that ends, None if none does in the time or none is there."""

    def stop(self) -> None:
        """Ask running cells to save and stop, and wait for them; forget the others."""

    def __len__(self) -> int:
        """Cells that have not ended."""


class CellLauncher(Launcher):
    """Hydra's launcher of cells; ``queue`` names the class that runs them, ``needs`` the package it is made with."""

    queue: str
    needs: str | None = None

    def __init__(self, **settings: Any):
        self.settings = settings
        self.config: DictConfig = OmegaConf.create()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the cells; their records say how they ended."""
        composed = [cell_of(self.config, overrides) for overrides in job_overrides]
        with resolvers.remembering():
            cells = [Cell(run_id(values), values) for values in map(resolved, composed)]
        folder = Path(self.config.hydra.sweep.dir)
        store, limits = Store(self.config.paths.results), self.config.sweep
        left = [cell for cell in cells if cell.config["force"] or store.ok(cell.run_id) is None]
        try:
            queue = self._queue(left or cells, folder)
            with Interrupts():  # also between cells, and while others train them
                work_through(cells, queue, store, state_of(folder) or {}, limits.retries, limits.fail_fast, folder)
        except ConfigError:  # there will be no sweep; its folder was made for it
            shutil.rmtree(folder, ignore_errors=True)
            raise
        done = zip(composed, job_overrides, strict=True)
        return [
            JobReturn(overrides=list(overrides), cfg=cfg, status=JobStatus.COMPLETED, _return_value=None)
            for cfg, overrides in done
        ]

    def _queue(self, cells: Sequence[Cell], folder: Path) -> Queue:
        try:
            made: Queue = get_object(self.queue)(cells, sweep=folder.name, folder=folder, **self.settings)
        except (TypeError, ValueError, ConnectionError, RuntimeError) as error:
            # a setting, a cluster that is not there or has other versions, which Ray tells in several lines
            raise ConfigError(f"hydra.launcher: {' '.join(str(error).split())}") from error
        return made


def cell_of(master: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a cell of the sweep that Hydra has composed ``master`` for."""
    return compose(master.hydra.job.config_name, [*searchpath(master), *overrides])


def searchpath(master: DictConfig) -> list[str]:
    """The settings that say where else configurations are."""
    return [override for override in master.hydra.overrides.hydra if override.startswith("hydra.searchpath=")]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("timeout_min", "max_parallel", "signal_delay_s"), whole(1)),
    "requeues": whole(0),
    **dict.fromkeys(("cpus_per_cell", "cpus_per_task", "gpus_per_node", "mem_gb"), or_null(whole(1))),
    **dict.fromkeys(("num_cpus", "num_gpus"), or_null(whole(0))),
    "cluster": choice("slurm", "local"),
    "additional_parameters": Rule(lambda v: isinstance(v, Mapping), "a mapping, such as {account: mine}"),
}
"""The settings of all launchers; each has some of them."""


def check(launcher: Mapping[str, Any]) -> None:
    """Check a launcher's configuration.

    Raises:
        ConfigError: it is not one of this project's, the package it needs is not installed, or a setting is unknown or
            has a value that is not allowed.
    """
    kind = get_object(str(launcher["_target_"]))
    if not (isinstance(kind, type) and issubclass(kind, CellLauncher)):
        raise ConfigError(f"hydra/launcher: {launcher['_target_']} does not run cells; choose in_process, ray or slurm")
    name = kind.__name__.lower()
    if kind.needs is not None:
        need(f"hydra/launcher={name}", name, kind.needs)
    known = [*inspect.signature(get_object(kind.queue)).parameters][len(("cells", "sweep", "folder")) :]
    check_keys("hydra.launcher", launcher, ("_target_", *known))
    for key, rule in RULES.items():
        if key in launcher:
            check_value(f"hydra.launcher.{key}", launcher[key], rule)


def work_through(
    cells: Iterable[Cell],
    queue: Queue,
    store: Store,
    state: Mapping[str, Any],
    retries: int,
    fail_fast: bool,
    folder: Path,
) -> None:
    """Run all cells that have no ok record, one line for each that has ended.

    A cell that another sweep works on is waited for, and taken over if that dies; one whose worker is lost is tried
    again ``retries`` times, then recorded as failed, unless it was stopped by a signal first. With ``fail_fast`` the
    first failure stops the rest; so does a signal, which is noted in the sweep's ``folder``.
    """
    lost: Counter[str] = Counter()
    busy: dict[str, Cell] = {}
    started = float(state.get("started", 0.0))

    def done(cell: Cell) -> RunRecord | None:
        return store.ok(cell.run_id, since=started if cell.config["force"] else 0.0)

    def show(record: RunRecord) -> None:
        console.say(cell_line(record, cells_of(store, state) if state else None))

    try:
        for cell in cells:
            if store.ok(cell.run_id) and not cell.config["force"]:
                console.say(f"{cell.run_id}: already done, skipped (force=true runs it again)")
            else:
                queue.submit(cell)
        while len(queue) or busy:
            ended = queue.wait(POLL if busy else None)
            for name, cell in list(busy.items()):
                if (record := done(cell)) is not None:
                    show(record)
                elif store.holder(name) is None:
                    queue.submit(cell)
                else:
                    continue
                del busy[name]
            if ended is None:
                if busy and not len(queue):
                    time.sleep(POLL)
                continue
            cell = ended.cell
            if ended.status == "busy":
                console.say(ended.reason)
                busy[cell.run_id] = cell
                continue
            if ended.status == "lost" and (record := done(cell)) is not None:
                show(record)  # lost after it was done
                continue
            if ended.status == "lost":
                lost[cell.run_id] += 1
                if lost[cell.run_id] <= retries:
                    console.say(f"{cell.run_id}: {ended.reason}; try {lost[cell.run_id] + 1} of {retries + 1}")
                    queue.submit(cell)
                    continue
                if store.outcome(cell.run_id, started, cell.config["force"]) is None:
                    record_lost(ended)
                else:  # it had saved, and the same command resumes it; or had failed, and the record says of what
                    console.say(f"{cell.run_id}: {ended.reason}")
            record = store.outcome(cell.run_id, started, cell.config["force"])
            if record is not None:
                show(record)
            if fail_fast and (record is None or record.status == "failed"):
                console.say("sweep.fail_fast=true: the rest is not started")
                queue.stop()
                return
    except (KeyboardInterrupt, Interrupted) as stop:
        stopped(folder, stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)
        with contextlib.suppress(KeyboardInterrupt, Interrupted):
            queue.stop()
    except Exception as error:  # a file server that does not answer, say: what runs saves, and the same command goes on
        if len(queue):
            console.say(f"the sweep cannot go on: {type(error).__name__}: {error}")
            with contextlib.suppress(KeyboardInterrupt, Interrupted):
                queue.stop()
        raise


def record_lost(ended: Ended) -> None:
    """Record a cell as failed whose worker could not; waits until its claim counts as dead."""
    from bench import train  # only now: importing PyTorch takes seconds

    cell, reason = ended.cell, ended.reason
    for _ in range(int(EXPIRY / POLL) + 2):
        try:
            train.fail(cell.config, reason, ended.details)
            return
        except BusyError:
            time.sleep(POLL)
        except OSError as error:  # a full disk
            console.say(f"{cell.run_id}: failed, {reason}; cannot be recorded: {error}")
            return
    console.say(f"{cell.run_id}: failed, {reason}; not recorded, as another process is working on it")


def execute(config: Mapping[str, Any], sweep: str) -> tuple[str, str]:
    """Train a cell in this process; returns the status and reason of ``Ended``.

    Raises:
        Interrupted: a signal stopped it; it is recorded.
    """
    from bench import train

    try:
        return train.run(OmegaConf.create(dict(config)), sweep).status, ""
    except BusyError as error:
        return "busy", str(error)
    except DoneError:  # another sweep has just finished it
        return "ok", ""
    except Exception as error:  # before there was a record to put it into, say a folder that is not there
        return "lost", train.reason_of(error)
