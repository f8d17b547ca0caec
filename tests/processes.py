"""Cells in processes of their own, which tests may kill.

They are forked from a server that has imported PyTorch and run nothing, so one starts in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["bench.train", "bench.cli"])


def start(*settings: str, log: Path | None = None) -> BaseProcess:
    """Begin a cell; its exit code is 0 for an ok record, 1 for another, and that of a stop by a signal."""
    process = CONTEXT.Process(target=_cell, args=(settings, log))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int | None:
    """Its exit code, once it has ended."""
    process.join(seconds)
    assert process.exitcode is not None, "the cell does not end"
    return process.exitcode


def _cell(settings: tuple[str, ...], log: Path | None) -> None:
    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from bench import cli, config, train
    from bench.interrupt import Interrupted
    from bench.record import run_id
    from bench.store import Store

    try:
        cfg = cli.composed([*settings, "progress=lines"])
        if Store(cfg.paths.results).ok(run_id(config.resolved(cfg))) is not None:
            os._exit(0)  # an earlier try was done when it was killed; as the command does
        record = train.run(cfg)
    except Interrupted as stop:
        os._exit(128 + stop.signum)
    os._exit(record.status != "ok")
