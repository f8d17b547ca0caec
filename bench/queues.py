"""The queues that run cells: in this process, and on Ray; bench.slurm has the one for Slurm."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import console
from bench.errors import ConfigError
from bench.launcher import Cell, Ended, execute


class InProcess:
    """One cell after another."""

    def __init__(self, cells: Sequence[Cell], sweep: str, folder: Path):
        self.sweep = sweep
        self.cells: deque[Cell] = deque()

    def submit(self, cell: Cell) -> None:
        self.cells.append(cell)

    def wait(self, seconds: float | None) -> Ended | None:
        """Run the next cell."""
        if not self.cells:
            return None
        cell = self.cells.popleft()
        return Ended(cell, *execute(cell.config, self.sweep))

    def stop(self) -> None:
        self.cells.clear()

    def __len__(self) -> int:
        return len(self.cells)


STOPPING = 60.0
"""Seconds that cells in other processes have to save and stop."""


def say_stopping(running: int) -> None:
    """Say that cells in other processes are being stopped, if there are any."""
    if running:
        console.say(f"stopping {running} cell{'s' * (running > 1)}, which save first; a second signal stops at once")


LOGGERS = ("MLFLOW_", "WANDB_")
"""Prefixes of the variables of the environment that say where loggers log, and as whom."""
SERVICE = "WANDB_SERVICE"
"""One that is for this machine alone: how to reach W&B's process on it."""


def at_work(
    config: Mapping[str, Any], sweep: str, folder: str, threads: int, environment: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """``execute`` in a queue's process, in the folder that relative paths refer to, with more ``environment``."""
    import torch

    os.environ.update(environment or {})
    try:
        os.chdir(folder)
    except OSError:
        return "lost", f"{folder}: no such folder on {socket.gethostname()}; all machines must see it under this path"
    torch.set_num_threads(threads)
    return execute(dict(config) | {"progress": "none"}, sweep)


class RayTasks:
    """One Ray task per cell, in its own process, with as many GPUs as the cell has devices, or with CPU threads.

    ``cpus_per_cell``: None for the number of CPUs divided by that of GPUs, or without GPUs by that of cells, at most
    those of the smallest machine.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        sweep: str,
        folder: Path,
        address: str | None = None,
        cpus_per_cell: int | None = None,
        num_cpus: int | None = None,
        num_gpus: int | None = None,
    ):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
            if address and value is not None:
                raise ConfigError(
                    f"hydra.launcher.{name}={value}: is for a cluster started here; leave it out with an address"
                )
        self.ray, self.sweep = ray, sweep
        own: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": False}
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.gpus = int(sum(node.get("GPU", 0) for node in nodes))
        able = [node for node in nodes if node.get("GPU" if self.gpus else "CPU", 0) >= 1]
        if not able:
            raise ConfigError("hydra/launcher=ray: the cluster has no processors to run a cell on")
        shares = self.gpus or len(cells)
        each = max(1, int(sum(node.get("CPU", 0) for node in able)) // shares)
        self.cpus = cpus_per_cell or min(each, max(1, int(min(node.get("CPU", 1) for node in able))))
        for cell in cells:  # or it would wait forever
            needs = self._needs(cell)
            if not any(
                node.get("CPU", 0) >= needs["num_cpus"] and node.get("GPU", 0) >= needs["num_gpus"] for node in able
            ):
                raise ConfigError(
                    f"{cell.run_id}: no machine has {needs['num_cpus']} CPUs and {needs['num_gpus']} GPUs"
                )
        self.running: dict[concurrent.futures.Future[tuple[str, str]], Cell] = {}

    def submit(self, cell: Cell) -> None:
        needs = self._needs(cell)
        # one call per process; the launcher retries lost workers and counts the retries
        task = self.ray.remote(max_calls=1, max_retries=0, **needs)(at_work)  # type: ignore[call-overload]
        # as futures, whose wait is Python's: a signal during ray.wait is lost in a SystemError
        own = {
            name: value for name, value in os.environ.items() if name.startswith(LOGGERS) and name != SERVICE
        }  # a node has another
        self.running[task.remote(cell.config, self.sweep, str(Path.cwd()), self.cpus, own).future()] = cell

    def _needs(self, cell: Cell) -> dict[str, int]:
        trainer = cell.config["trainer"]
        on_gpu = self.gpus > 0 and trainer["accelerator"] in ("auto", "gpu")
        return {"num_cpus": self.cpus, "num_gpus": trainer["devices"] if on_gpu else 0}

    def wait(self, seconds: float | None) -> Ended | None:
        if not self.running:
            return None
        done, _ = concurrent.futures.wait(self.running, seconds, concurrent.futures.FIRST_COMPLETED)
        if not done:
            return None
        first = done.pop()
        cell = self.running.pop(first)
        try:
            return Ended(cell, *first.result())
        except self.ray.exceptions.TaskCancelledError:
            return Ended(cell, "interrupted")
        except self.ray.exceptions.RayTaskError as error:
            # also a signal, unless it was ours: the cluster has asked the worker to leave
            told = str(error.cause).strip() or type(error.cause).__name__
            # several lines from a worker that cannot import the cell's code
            return Ended(cell, "lost", f"worker: {told.splitlines()[-1]}", told)
        except self.ray.exceptions.RayError as error:
            return Ended(
                cell, "lost", f"worker lost, {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            )

    def stop(self) -> None:
        say_stopping(len(self.running))
        for task in self.running:
            self.ray.cancel(task.object_ref, force=False)  # type: ignore[attr-defined]  # as Ctrl-C
        concurrent.futures.wait(self.running, STOPPING)
        self.running.clear()

    def __len__(self) -> int:
        return len(self.running)
