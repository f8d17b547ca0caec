"""The ``bench`` command: train one cell, or with ``-m`` a sweep of them.

Heavy imports wait until a cell is about to run, so that help, completion and error messages are instant.
"""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bench import cli, config, console, resolvers
from bench.errors import ConfigError
from bench.interrupt import Interrupted
from bench.record import run_id
from bench.status import cell_line, goes_on
from bench.store import DoneError, Store


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def cell(cfg: DictConfig) -> None:
    """Train one cell, unless it already has an ok record. The cells of a sweep are run by its launcher instead.

    A cell that is not ok exits through SystemExit: Hydra would add to an exception's text.
    """
    choices = HydraConfig.get().runtime.choices
    try:
        if "sweep" in choices:
            raise ConfigError(f"+sweep={choices['sweep']}: a sweep needs -m: bench -m …")
        with resolvers.remembering():  # ``run`` asks again
            resolved = config.check(cfg)
            done = Store(resolved["paths"]["results"]).ok(run_id(resolved))
            if done is not None and not resolved["force"]:
                console.say(f"{done.run_id}: already done, skipped (force=true runs it again)")
                return
            if console.live() and "torch" not in sys.modules:
                console.say("loading PyTorch")
            from bench.train import run  # only now: importing PyTorch takes seconds

            record = run(cfg)
    except Interrupted as stop:
        cli.stop("bench", f"{stop}; {goes_on(resolved['force'])}", 128 + stop.signum)
    except DoneError as error:  # by another process, just now
        console.say(f"{error}, skipped")
        return
    except cli.OURS as error:
        if cli.SHOW_TRACEBACKS:
            raise
        cli.stop("bench", str(error), cli.USAGE_ERROR)
    console.say(cell_line(record, None))
    if record.status != "ok":
        cli.stop("bench", f"{record.run_id} failed: {record.error}", cli.FAILED)


def main() -> None:
    """Run the command line; exit with 0, 1 (a cell failed), 2 (a usage error) or 128 + a signal's number."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    with cli.answering("bench"):
        cell()


if __name__ == "__main__":
    main()
