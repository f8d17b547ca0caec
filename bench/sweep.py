"""A sweep seen as a whole: checked before it starts, judged at its end.

Works through Hydra's callbacks and files alone, so it is the same for every launcher: the sweep's folder,
``<results>/sweeps/<time>/``, holds ``plan.json``, the run ids of its cells; what became of them is in their records.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from bench import cli, console, launcher, resolvers, status
from bench.claim import now
from bench.config import check
from bench.errors import ConfigError
from bench.files import expanded, write_atomically
from bench.record import run_id
from bench.store import Store

BASIC = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """End the program by SystemExit at any exception, as Hydra only warns of exceptions in its hooks, and continues."""
    try:
        with cli.answering("bench"):
            yield
    except Exception:  # no mistake of the user's, or HYDRA_FULL_ERROR=1
        traceback.print_exc()
        sys.exit(cli.FAILED)


class SweepCallback(Callback):
    """Hydra's hooks of a sweep."""

    @_answering()
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check every cell before the first one runs, and write the plan; exit code 2 if one is wrong."""
        launcher.check(OmegaConf.to_container(config.hydra.launcher, resolve=True))  # type: ignore[arg-type] # keys
        if (sweeper := config.hydra.sweeper._target_) != BASIC:
            raise ConfigError(f"hydra/sweeper: {sweeper} has cells that are not known beforehand; bench-tune searches")
        if (most := config.hydra.sweeper.get("max_batch_size")) is not None:  # what stops a batch would start the next
            raise ConfigError(f"hydra.sweeper.max_batch_size={most}: must be null; a launcher has settings of its own")
        with resolvers.remembering():
            cells = plan(config)
        folder = Path(config.hydra.sweep.dir)
        place = expanded(config.paths.results) / "sweeps"  # where its state is looked for
        if folder.absolute().parent != place.absolute():
            raise ConfigError(f"hydra.sweep.dir={folder}: must be a new folder in {place}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise ConfigError(f"hydra.sweep.dir={folder}: exists already; name a new folder") from error
        state = {"cells": cells, "started": now(folder)}
        write_atomically(folder / status.PLAN, json.dumps(state, indent=2) + "\n")
        console.say(f"{len(cells)} cell{'s' * (len(cells) != 1)}, records in {config.paths.results}/runs")

    @_answering()
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the leaderboard, show the sweep's part of it, name the cells that are not ok; exit code 1 if any, or
        that of the signal that stopped the sweep.
        """
        folder = Path(config.hydra.sweep.dir)
        if (state := status.state_of(folder)) is None:
            cli.stop("bench", f"{folder / status.PLAN} is gone: how the sweep ended is unknown", cli.FAILED)
        try:
            code = conclude(Store(config.paths.results), state)
        except OSError as error:  # a full disk, a closed pipe
            cli.stop("bench", f"the sweep's summary: {error}", cli.FAILED)
        if code:
            sys.exit(code)


def conclude(store: Store, state: Mapping[str, Any]) -> int:
    """Show the tables that the sweep has part in and how its cells ended; returns the exit code, 1 if one is not ok."""
    from bench import report  # only now: importing NumPy and SciPy takes a second

    cells = status.cells_of(store, state)
    report.build(store, show=[cell.record for cell in cells if cell.record is not None])
    bad = sum(cell.state != "done" for cell in cells)
    console.say(f"{len(cells) - bad} of {len(cells)} cells ok, {now(store.root) - state['started']:.0f} s")
    for line in status.not_ok(store, state, cells):
        console.say(line)
    if "stopped" in state:
        forced = any(cell.get("force", False) for cell in state["cells"].values())
        console.say(f"stopped; {status.goes_on(forced)}")
        return 128 + int(state["stopped"])
    return 1 if bad else 0


def plan(master: DictConfig) -> dict[str, dict[str, Any]]:
    """Run id → ``overrides``, ``epochs`` and ``force`` of a sweep's cells, each checked, in the order Hydra's sweeper
    runs them.

    Raises:
        ConfigError, HydraException, OmegaConfBaseException: a cell is wrong, or is the same run as another. What a data
            source says of its arguments and images shows only when they are read.
    """
    grid = [f"{key}={value}" for key, value in (master.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(
        [*grid, *master.hydra.overrides.task]
    )
    for override in {each.get_key_element(): each for each in overrides}.values():  # of a key the last one counts
        # a glob that fits nothing, an empty range
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_string_iterator()):
            raise ConfigError(f"{override.input_line}: has no values, so that there would be no cells")
    (cells,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    where = [
        f"--config-dir={source.path}"
        for source in master.hydra.runtime.config_sources
        if source.provider == "command-line"
    ]
    where += launcher.searchpath(master)
    planned: dict[str, dict[str, Any]] = {}
    composed: list[tuple[DictConfig, dict[str, Any]]] = []
    for cell in cells:
        cfg = launcher.cell_of(master, cell)
        values = check(cfg)
        composed.append((cfg, values))
        if (results := values["paths"]["results"]) != master.paths.results:
            raise ConfigError(f"paths.results={results}: a sweep has one folder, not one for each cell")
        name = run_id(values)
        if name in planned:
            raise ConfigError(_twice(cell, planned[name]["overrides"][len(where) :]))
        alone = status.alone(cell)
        if not planned and alone != cell and run_id(check(launcher.cell_of(master, alone))) != name:
            raise ConfigError(
                f"{' '.join(override for override in cell if override not in alone)}: may set hydra.sweeper.params "
                "alone, so that each cell can be run by itself; other settings go in there, too"
            )
        about = {"overrides": [*where, *cell], "epochs": values["trainer"]["max_epochs"], "force": values["force"]}
        planned[name] = about
    from bench import assemble  # only now: importing PyTorch takes seconds

    tried: set[str] = set()
    for cfg, values in composed:
        assemble.try_out(cfg, values, tried)
    return planned


def _twice(cell: Sequence[str], first: Sequence[str]) -> str:
    """A line about a cell that is the same run as an earlier one."""
    differ = [(ours, theirs) for ours, theirs in zip(cell, first, strict=True) if ours != theirs]
    if not differ:
        return f"{' '.join(cell)}: the sweep has this run twice"
    ours, theirs = (" ".join(settings) for settings in zip(*differ, strict=True))
    return (
        f"{ours}: the same run as {theirs}, as results do not depend on it; to compare them, give each a sweep with a "
        "paths.results of its own"
    )
