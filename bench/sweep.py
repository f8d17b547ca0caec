"""A sweep seen as a whole: checked before it starts, told of after each cell, judged at its end.

Works through Hydra's callbacks and files alone, so it is the same for every launcher: the sweep's folder,
``<results>/sweeps/<time>/``, holds ``plan.json``, the run ids of its cells; what became of them is in their records.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench import console, report
from bench.config import check, resolved
from bench.explain import explain
from bench.record import RunRecord, run_id
from bench.store import Store, write_atomically

PLAN = "plan.json"


class SweepCallback(Callback):
    """Hydra's hooks of a sweep; they end the program by SystemExit, as Hydra only warns of a hook's exceptions."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every cell before the first one runs, and write the plan; exit code 2 where one is wrong."""
        try:
            cells = plan(config, kwargs["config_name"])
            folder = Path(config.hydra.sweep.dir)
            folder.mkdir(parents=True)
            write_atomically(folder / PLAN, json.dumps({"cells": cells, "started": time.time()}, indent=2) + "\n")
        except (HydraException, OmegaConfBaseException) as error:
            _stop(explain(error), 2)
        except Exception as error:
            _stop(str(error), 2)
        console.say(f"{len(cells)} cell{'s' * (len(cells) != 1)}, records in {config.paths.results}/runs")

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """One line for the cell that has ended, and what is left."""
        if job_return.status != JobStatus.COMPLETED or job_return.return_value not in ("ok", "failed"):
            return
        state = _state(config)
        store = Store(config.paths.results)
        record = store.outcome(run_id(resolved(job_return.cfg)), since=0.0)
        if record is not None:
            left = None if state is None else remaining(store, state)
            console.say(cell_line(record, left))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the leaderboard, show the sweep's part of it, name the cells that are not ok; exit code 1 if any."""
        state = _state(config)
        if state is None:
            _stop(f"{config.hydra.sweep.dir}/{PLAN} is gone, so nobody knows how the sweep ended", 1)
        try:
            code = conclude(Store(config.paths.results), state)
        except Exception as error:
            _stop(f"the sweep's summary: {type(error).__name__}: {error}", 1)
        if code:
            sys.exit(code)


def _stop(text: str, code: int) -> NoReturn:
    print(f"bench: {text}", file=sys.stderr)
    sys.exit(code)


def _state(config: DictConfig) -> dict[str, Any] | None:
    """The plan of the sweep this process takes part in; None outside one."""
    file = Path(config.hydra.sweep.dir) / PLAN
    return json.loads(file.read_text()) if file.exists() else None


def conclude(store: Store, state: Mapping[str, Any]) -> int:
    """Show the tables that the sweep has part in and how its cells ended; returns the exit code, 1 if one is not ok."""
    records = {cell: store.outcome(cell, state["started"]) for cell in state["cells"]}
    report.build(store, show=[record for record in records.values() if record is not None])
    bad = {cell: record for cell, record in records.items() if record is None or record.status != "ok"}
    took = time.time() - state["started"]
    console.say(f"{len(records) - len(bad)} of {len(records)} cells ok, {took:.0f} s")
    for cell, record in bad.items():
        console.say(f"  {cell}  {'left no record' if record is None else f'{record.status}: {record.error}'}")
    return 1 if bad else 0


def plan(master: DictConfig, config_name: str) -> list[str]:
    """The run ids of a sweep's cells, each checked, in the order Hydra's sweeper runs them.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a cell is wrong.
    """
    grid = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*grid, *master.hydra.overrides.task])
    (cells,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [run_id(check(compose(config_name, list(cell)))) for cell in cells]


def remaining(store: Store, state: Mapping[str, Any]) -> list[str]:
    """Run ids of the plan's cells that have not ended since the sweep started, nor were ok before."""
    return [cell for cell in state["cells"] if store.outcome(cell, state["started"]) is None]


def cell_line(record: RunRecord, left: list[str] | None) -> str:
    """``nin on digits, seed 0: test 96.1 %, 28 s; 2 left``: a finished cell in a line."""
    name = f"{record.model} on {record.dataset}, seed {record.seed}"
    if record.status == "ok":
        splits = [
            f"{split} {record.metrics[split]['top1']:.1%}" for split in ("val", "test") if split in record.metrics
        ]
        outcome = f"{', '.join(splits)} top-1 in {record.fit_seconds:.0f} s"
    else:
        outcome = f"{record.status}, {record.error}"
    return f"{name}: {outcome}" + ("" if left is None else f"; {len(left)} left")
