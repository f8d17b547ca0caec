"""The progress of a sweep, from its plan, records and claims; and the ``bench-status`` command.

    bench-status [paths.results=results/local] [sweep=NAME]

Shows what is done, running, failed and waiting, how long the rest will take, and the best result so far, for the last
sweep, or the one given by sweep= (sweep=all: all of them). Works on any machine that can read the folder, without
PyTorch.
"""

from __future__ import annotations

import csv
import json
import shlex
import signal
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from bench import console
from bench.errors import ConfigError
from bench.files import write_atomically
from bench.record import RunRecord
from bench.store import DEFAULT_RESULTS, ERROR, RECORD, Store

PLAN = "plan.json"
"""In a sweep's folder, ``<results>/sweeps/<time>/``: ``cells``, run id → ``overrides``, ``epochs`` and ``force``;
``started``, in seconds since the epoch by the folder's own clock (claim.now); and ``stopped``, the signal that ended
the sweep early."""

State = Literal["done", "running", "failed", "interrupted", "cut off", "waiting"]


def state_of(folder: Path) -> dict[str, Any] | None:
    """The plan of the sweep in ``folder``; None if it has none, or (with a warning) one that cannot be read."""
    file = folder / PLAN
    if not file.exists():
        return None
    try:
        state = json.loads(file.read_text())
        if isinstance(state["cells"], dict) and isinstance(state["started"], int | float):
            return dict(state)
        reason = "is not a plan of this version"
    except (ValueError, KeyError, TypeError) as error:
        reason = f"is damaged ({type(error).__name__}: {error})"
    warnings.warn(f"{file}: skipped, {reason}", stacklevel=2)
    return None


def stopped(folder: Path, signum: int) -> None:
    """Record in the plan that a signal stopped the sweep."""
    if (state := state_of(folder)) is not None:
        write_atomically(folder / PLAN, json.dumps(state | {"stopped": signum}, indent=2) + "\n")


def goes_on(force: bool) -> str:
    """What the same command does after a stop."""
    return "with force=true the same command starts over" if force else "the same command resumes from there"


def alone(overrides: Sequence[str]) -> list[str]:
    """A cell's settings without the name of its sweep."""
    return [setting for setting in overrides if not setting.startswith("+sweep=")]


def command(overrides: Sequence[str]) -> str:
    """The command line that runs a single cell."""
    return shlex.join(["bench", *alone(overrides)])


@dataclass(frozen=True)
class CellState:
    """A cell of a plan: its record if it has ended; its metrics.csv rows unless it is done; the planned ``epochs``."""

    run_id: str
    state: State
    record: RunRecord | None
    rows: list[dict[str, str]]
    epochs: int

    def val_top1(self) -> float | None:
        """From an ok record, or else the last validated epoch; None before the first."""
        if self.record is not None and self.record.status == "ok":
            return self.record.metrics.get("val", {}).get("top1")
        return next((float(row["val_top1"]) for row in reversed(self.rows) if row.get("val_top1")), None)

    def seconds_left(self) -> float | None:
        """For a running cell, at its pace so far; None before its first epoch has ended."""
        if not self.rows:
            return None
        return float(self.rows[-1]["seconds"]) / len(self.rows) * (self.epochs - len(self.rows))


def cells_of(store: Store, state: Mapping[str, Any]) -> list[CellState]:
    """The cells of a sweep's plan, in order."""
    return [_cell(store, run_id, plan, state["started"]) for run_id, plan in state["cells"].items()]


def _cell(store: Store, run_id: str, plan: Mapping[str, Any], started: float) -> CellState:
    epochs = plan["epochs"]
    record = store.outcome(run_id, started, plan.get("force", False))
    if record is not None:
        states: dict[str, State] = {"ok": "done", "failed": "failed", "interrupted": "interrupted"}
        there = [] if record.status == "ok" else [place for place in store.places(run_id) if (place / RECORD).exists()]
        rows = rows_of(there[0]) if there else []
        return CellState(run_id, states[record.status], record, rows, epochs)
    work = next((path for path in store.places(run_id) if path.exists()), None)
    alive = store.holder(run_id) is not None
    if work is None or (not alive and (work / RECORD).exists()):  # a record of an earlier sweep
        return CellState(run_id, "waiting", None, [], epochs)
    return CellState(run_id, "running" if alive else "cut off", None, rows_of(work), epochs)


def rows_of(run: Path) -> list[dict[str, str]]:
    """The epochs in a run's table so far."""
    table = run / "metrics.csv"
    return list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []


LEFT: tuple[State, ...] = ("running", "interrupted", "cut off", "waiting")
"""States of cells that have something to do yet; an interrupted one when its queue, or the same command, resumes it."""


def remaining(cells: Sequence[CellState], ended: int = 0) -> float | None:
    """Estimated seconds until the rest is done, with as many cells at once as are running or have just ``ended``; None
    before there is anything to go by.

    A waiting cell is assumed to take as long as those of its network and data set; other networks tell nothing, as they
    may take a hundredth of the time.
    """
    took: dict[str, list[float]] = {}
    for cell in cells:
        if cell.record is not None and cell.record.status == "ok" and cell.record.fit_seconds is not None:
            took.setdefault(_kind(cell.run_id), []).append(cell.record.fit_seconds)
    seconds = 0.0
    left = [cell for cell in cells if cell.state in LEFT]
    for cell in left:
        own = cell.seconds_left()
        if own is None and _kind(cell.run_id) not in took:
            return None
        seconds += statistics.mean(took[_kind(cell.run_id)]) if own is None else own
    at_once = ended + sum(cell.state == "running" for cell in left)
    return seconds / max(1, min(at_once, len(left)))


def _kind(run_id: str) -> str:
    """A run id without seed and hash."""
    return run_id.rsplit("-", 2)[0]


def summary(cells: Sequence[CellState]) -> str:
    """``5 done, 1 running, 2 waiting; about 12 min left``."""
    counts = Counter(cell.state for cell in cells)
    order: tuple[State, ...] = ("done", "running", "failed", "interrupted", "cut off", "waiting")
    text = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    seconds = remaining(cells) if any(counts[state] for state in LEFT) else None
    return text if seconds is None else f"{text}; about {duration(seconds)} left"


def best(cells: Sequence[CellState]) -> str | None:
    """The best validation top-1 of each data set and protocol so far, in one line; None if there is none."""
    top: dict[tuple[str, str], RunRecord] = {}
    for cell in cells:
        record = cell.record
        if record is not None and "val" in record.metrics:
            key = record.dataset, record.protocol
            if key not in top or record.metrics["val"]["top1"] > top[key].metrics["val"]["top1"]:
                top[key] = record
    lines = (
        f"{record.model} {record.metrics['val']['top1']:.1%} on {dataset} ({protocol})"
        for (dataset, protocol), record in top.items()
    )
    return ", ".join(lines) or None


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cell_line(record: RunRecord, cells: Sequence[CellState] | None) -> str:
    """A finished cell in one line: ``nin on digits, seed 0: test 96.1 % top-1 in 28 s; 3 left``."""
    name = f"{record.model} on {record.dataset}, seed {record.seed}"
    if record.status == "ok":
        splits = [
            f"{split} {record.metrics[split]['top1']:.1%}" for split in ("val", "test") if split in record.metrics
        ]
        outcome = f"{', '.join(splits)} top-1 in {record.fit_seconds:.0f} s"
    else:
        outcome = f"{record.status}, {record.error}"
    if cells is None:
        return f"{name}: {outcome}"
    left = sum(cell.state in LEFT for cell in cells)
    seconds = remaining(cells, ended=1) if left else None  # its successor has hardly begun
    return f"{name}: {outcome}; {left} left" + ("" if seconds is None else f", about {duration(seconds)}")


def not_ok(store: Store, state: Mapping[str, Any], cells: Sequence[CellState]) -> list[str]:
    """For each cell of a finished sweep that is not ok: why, its traceback, and how to run it again."""
    lines = []
    for cell in cells:
        if cell.state == "done":
            continue
        record = cell.record
        lines.append(f"  {cell.run_id}  {'not run' if record is None else f'{record.status}: {record.error}'}")
        files = [path / ERROR for path in store.places(cell.run_id) if (path / ERROR).exists()]
        if record is not None and files:
            lines.append(f"    traceback: {files[0]}")
        lines.append(f"    again: {command(state['cells'][cell.run_id]['overrides'])}")
    return lines


def sweeps(store: Store) -> dict[str, dict[str, Any]]:
    """Name → plan of the folder's sweeps, in the order they started.

    Raises:
        ConfigError: there are none.
    """
    files = store.root.glob(f"sweeps/*/{PLAN}")
    found = {file.parent.name: plan for file in files if (plan := state_of(file.parent)) is not None}
    plans = dict(sorted(found.items(), key=lambda item: (item[1]["started"], item[0])))
    if not plans:
        raise ConfigError(f"paths.results={store.root}: contains no sweep")
    return plans


def one_of(plans: Mapping[str, Any], name: str) -> str:
    """``name``, or the last sweep's if it is empty.

    Raises:
        ConfigError: there is no such sweep.
    """
    if name and name not in plans:
        last = ", ".join(["…"] * (len(plans) > 5) + list(plans)[-5:])
        raise ConfigError(f"sweep={name}: no such sweep; available: {last}")
    return name or list(plans)[-1]


def main() -> None:
    """Run the command line; exit code 2 for a usage error."""
    from bench import cli

    cli.run("bench-status", __doc__ or "", show)


def show(arguments: list[str]) -> None:
    """Print the state of the sweeps selected by the arguments."""
    from bench import cli

    own = cli.settings(arguments, ("paths.results", "sweep"))
    store, wanted = Store(cli.single(own, "paths.results", DEFAULT_RESULTS)), cli.single(own, "sweep")
    plans = sweeps(store)
    for name in plans if wanted == "all" else [one_of(plans, wanted)]:
        state = plans[name]
        cells = cells_of(store, state)
        console.out.print(_table(name, cells))
        console.say(summary(cells))
        if "stopped" in state:
            console.say(f"stopped by {signal.Signals(state['stopped']).name}")
        if (line := best(cells)) is not None:
            console.say(f"best on validation so far: {line}")


def _table(name: str, cells: Sequence[CellState]) -> Table:
    table = Table("cell", "state", title=Text(f"sweep {name}"), title_justify="left", box=None, pad_edge=False)
    for column in ("epochs", "val top-1", "time"):
        table.add_column(column, justify="right")
    for cell in cells:
        val, done = cell.val_top1(), len(cell.rows)
        seconds = float(cell.rows[-1]["seconds"]) if cell.rows else None
        if cell.record is not None and cell.record.status == "ok":
            done, seconds = cell.record.epochs or 0, cell.record.fit_seconds
        table.add_row(
            cell.run_id,
            cell.state,
            f"{done}/{cell.epochs}",
            "" if val is None else f"{val:.1%}",
            "" if seconds is None else duration(seconds),
        )
    return table


if __name__ == "__main__":
    main()
