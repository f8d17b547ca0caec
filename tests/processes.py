"""Cells and commands in processes of their own, which tests may kill.

They are forked from a server that has imported PyTorch and run nothing, so one starts in a fraction of a second; with
the environment as it was when the server started.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["bench.train", "bench.cli"])
begun: list[BaseProcess] = []


def start(*settings: str, log: Path | None = None, spawns: bool = False) -> BaseProcess:
    """Begin a cell; its exit code is 0 for an ok record, 1 for another, and that of a stop by a signal.

    The processes of ``trainer=ddp`` are forked from the cell's, where a process can be; with ``spawns`` they start from
    nothing, as they do outside of tests, and import PyTorch for seconds.
    """
    return begin(_cell, settings, log, spawns)


def command(main: Callable[[], None], *arguments: str, log: Path) -> BaseProcess:
    """Begin a command in a process group of its own; what it prints is appended to ``log``."""
    return begin(_command, main, arguments, log)


def begin(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call the function in a process of its own."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    begun.append(process)
    return process


def kill_all() -> None:
    """End what a test that failed has left running."""
    for process in begun:
        process.kill()
        process.join()
    begun.clear()


def finish(process: BaseProcess, seconds: float = 300) -> int | None:
    """Its exit code, once it has ended."""
    process.join(seconds)
    assert process.exitcode is not None, "the process does not end"
    return process.exitcode


def _command(main: Callable[[], None], arguments: tuple[str, ...], log: Path) -> None:
    os.setsid()
    _print_to(log)
    sys.argv = ["command", *arguments]
    main()


def _print_to(log: Path | None) -> None:
    output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _cell(settings: tuple[str, ...], log: Path | None, spawns: bool) -> None:
    _print_to(log)
    import torch.multiprocessing

    from bench import cli, config, distributed, train
    from bench.interrupt import Interrupted
    from bench.record import run_id
    from bench.store import Store

    if not spawns and sys.platform == "linux" and not torch.cuda.is_available():  # which a forked process cannot use
        distributed.multiprocessing = SimpleNamespace(
            get_context=lambda method: multiprocessing.get_context("fork"),
            spawn=functools.partial(torch.multiprocessing.start_processes, start_method="fork"),
        )
    try:
        cfg = cli.composed([*settings, "progress=lines"])
        if Store(cfg.paths.results).ok(run_id(config.resolved(cfg))) is not None:
            os._exit(0)  # an earlier try was done when it was killed; as the command does
        record = train.run(cfg)
    except Interrupted as stop:
        os._exit(128 + stop.signum)
    os._exit(record.status != "ok")
