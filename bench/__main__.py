"""The ``bench`` command: train one cell, or with ``-m`` a sweep of them.

Nothing heavy is imported before a cell is about to run, so that help, completion and mistakes are answered at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bench import cli, config, console
from bench.config import ConfigError
from bench.interrupt import Interrupted
from bench.record import run_id
from bench.store import Store, StoreError


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def cell(cfg: DictConfig) -> str:
    """Train one cell; returns the status of its record, or ``skipped`` where an ok record was there before.

    Outside a sweep a cell that is not ok ends the program, by SystemExit: Hydra would add to an exception's text.
    """
    settings = HydraConfig.get()
    in_sweep = settings.mode == RunMode.MULTIRUN
    try:
        if not in_sweep and "sweep" in settings.runtime.choices:
            raise ConfigError(f"+sweep={settings.runtime.choices['sweep']}: a sweep needs -m: bench -m …")
        resolved = config.check(cfg)
        done = Store(resolved["paths"]["results"]).ok(run_id(resolved))
        if done is not None and not resolved["force"]:
            console.say(f"{done.run_id}: already there, left alone (force=true runs it again)")
            return "skipped"
        if console.live() and "torch" not in sys.modules:
            console.say("loading PyTorch")
        from bench.train import run  # only now: importing PyTorch takes seconds

        record = run(cfg, sweep=Path(settings.sweep.dir).name if in_sweep else None)
    except Interrupted as stop:
        cli.stop("bench", f"{stop}; the same command goes on from there", 128 + stop.signum)
    except StoreError as error:
        if in_sweep:  # another process has the cell; the others go on
            console.say(f"{error}")
            return "busy"
        cli.stop("bench", str(error), cli.USAGE_ERROR)
    except ConfigError as error:
        if cli.SHOW_TRACEBACKS:
            raise
        cli.stop("bench", str(error), cli.USAGE_ERROR)
    if record.status != "ok" and not in_sweep:
        cli.stop("bench", f"{record.run_id} failed: {record.error}", cli.FAILED)
    return record.status


def main() -> None:
    """Run the command line; exit with 0, 1 (a cell failed), 2 (a mistake in the call) or 130 (stopped by the user)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    with cli.answering("bench"):
        cell()


if __name__ == "__main__":
    main()
