"""The ``bench`` command: train one cell, or with ``-m`` a sweep of them.

Nothing heavy is imported before a cell is about to run, so that help, completion and mistakes are answered at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench import config, console
from bench.config import ConfigError
from bench.record import run_id
from bench.store import Store, StoreError

CELL_FAILED, USAGE_ERROR, INTERRUPTED = 1, 2, 130
SHOW_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def cell(cfg: DictConfig) -> str:
    """Train one cell; returns the status of its record, or ``skipped`` where an ok record was there before.

    Outside a sweep a cell that is not ok ends the program, by SystemExit: Hydra would add to an exception's text.
    """
    settings = HydraConfig.get()
    in_sweep = settings.mode == RunMode.MULTIRUN
    try:
        resolved = config.check(cfg)
        done = Store(resolved["paths"]["results"]).ok(run_id(resolved))
        if done is not None and not resolved["force"]:
            console.say(f"{done.run_id}: already there, left alone (force=true runs it again)")
            return "skipped"
        if console.live() and "torch" not in sys.modules:
            console.say("loading PyTorch")
        from bench.train import run  # only now: importing PyTorch takes seconds

        record = run(cfg, sweep=Path(settings.sweep.dir).name if in_sweep else None)
    except StoreError as error:
        if in_sweep:  # another process has the cell; the others go on
            console.say(f"{error}")
            return "busy"
        sys.exit(_complain(str(error), USAGE_ERROR))
    except ConfigError as error:
        if SHOW_TRACEBACKS:
            raise
        sys.exit(_complain(str(error), USAGE_ERROR))
    if record.status != "ok" and not in_sweep:
        sys.exit(_complain(f"{record.run_id} failed: {record.error}", CELL_FAILED))
    return record.status


def main() -> None:
    """Run the command line; exit with 0, 1 (a cell failed), 2 (a mistake in the call) or 130 (stopped by the user)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    try:
        cell()
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # model=null is a ValueError of Hydra's
        if SHOW_TRACEBACKS:
            raise
        sys.exit(_complain(config.explain(error), USAGE_ERROR))
    except BrokenPipeError:  # output into head, less and the like, which have seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
    except KeyboardInterrupt:
        sys.exit(_complain("stopped", INTERRUPTED))


def _complain(text: str, code: int) -> int:
    print(f"bench: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
