"""The Slurm queue: one batch job per cell, through submitit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import console
from bench.claim import now
from bench.cores import cores
from bench.errors import ConfigError
from bench.interrupt import SIGNALS, Interrupted, Interrupts
from bench.launcher import Cell, Ended
from bench.queues import STOPPING, at_work, say_stopping
from bench.store import Store


@dataclass(frozen=True)
class SlurmCell:
    """What a batch job runs; ``threads``: None for as many as the CPUs it may use."""

    config: dict[str, Any]
    sweep: str
    folder: str
    threads: int | None

    def __call__(self) -> tuple[str, str]:
        import submitit

        job = submitit.JobEnvironment()
        try:
            with Interrupts():  # also while PyTorch is imported: submitit ignores SIGTERM
                return at_work(self.config, self.sweep, self.folder, self.threads or cores())
        except Interrupted as stop:
            signum, told = stop.signum, ("interrupted", str(stop))
        if signum == signal.SIGUSR2:  # the time limit is near: submitit requeues the job, ``requeues`` times
            try:
                signal.raise_signal(signum)
            except submitit.core.utils.UncompletedJobError as error:
                return "interrupted", str(error)
        if job.cluster != "slurm":
            return told
        if (state := _state(job.job_id)) == "preempted":
            # in the grace period: to Slurm, a job that exits by itself now has ended
            subprocess.run(["scontrol", "requeue", job.job_id], check=False)
        elif state == "running":  # the signal did not come from Slurm
            return told
        raise SystemExit(128 + signum)  # without a result: Slurm may rerun the job, and the queue informs the sweep

    def checkpoint(self, *_: Any) -> Any:
        """What submitit requeues: the same job, which resumes from the cell's checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _state(job_id: str) -> str:
    """``running``, ``preempted`` if it is still running but about to be stopped, or ``ending``."""
    show = ["scontrol", "--oneliner", "show", "job", job_id]
    told = subprocess.run(show, capture_output=True, text=True, check=False).stdout
    if "JobState=RUNNING" not in told:
        return "ending"
    return "preempted" if re.search(r"PreemptTime=\d", told) else "running"


LOOK = 10.0
"""Seconds between polls of Slurm's queue; results are polled every second."""

PATIENCE = 3
"""Polls in a row without an answer, after which that is told."""
PROGRAMS = ("sbatch", "srun", "squeue", "scancel")
"""Slurm's, without which no job is sent, watched or stopped."""

OVER = {"COMPLETED", "FAILED", "CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE"}
OVER |= {"OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "REVOKED"}
"""The states of jobs that will not run again."""


class SlurmJobs:
    """One batch job per cell, through submitit; the settings are those of conf/hydra/launcher/slurm.yaml.

    A job has ended when its result exists, or Slurm's queue says so in two polls. The queue is polled, rather than the
    accounting database as submitit does, because every cluster has one.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        sweep: str,
        folder: Path,
        cluster: str,
        max_parallel: int,
        requeues: int,
        timeout_min: int,
        cpus_per_task: int | None,
        gpus_per_node: int | None,
        mem_gb: int | None,
        partition: str | None,
        signal_delay_s: int,
        additional_parameters: Mapping[str, Any],
    ):
        import submitit

        if cluster == "slurm" and (missing := [name for name in PROGRAMS if shutil.which(name) is None]):
            raise ConfigError(f"hydra.launcher.cluster=slurm: {missing[0]} not found; cluster=local runs without Slurm")
        if signal_delay_s >= 60 * timeout_min:
            raise ConfigError(f"hydra.launcher.signal_delay_s={signal_delay_s}: must be less than the job's time limit")
        self.sweep, self.cluster, self.threads = sweep, cluster, cpus_per_task
        self.folder = folder.absolute() / "jobs"
        self.executor = submitit.AutoExecutor(folder=self.folder, cluster=cluster, slurm_max_num_timeout=requeues)
        wanted: dict[str, Any] = {"timeout_min": timeout_min, "cpus_per_task": cpus_per_task, "mem_gb": mem_gb}
        wanted |= {"gpus_per_node": gpus_per_node, "slurm_partition": partition, "name": "bench"}
        wanted |= {"slurm_array_parallelism": max_parallel, "slurm_signal_delay_s": signal_delay_s}
        wanted["slurm_additional_parameters"] = {"requeue": True, **additional_parameters}
        if cpus_per_task is not None:  # since Slurm 22.05 srun does not take it from sbatch
            wanted["slurm_srun_args"] = [f"--cpus-per-task={cpus_per_task}"]
        self.executor.update_parameters(**{key: value for key, value in wanted.items() if value is not None})
        self.waiting: list[Cell] = []
        self.refused: list[Ended] = []
        self.running: dict[Any, Cell] = {}
        self.begun: dict[Any, float] = {}
        self.over: dict[str, tuple[str, int]] = {}
        self.looked, self.unanswered, self.blind = time.monotonic(), 0, False

    def submit(self, cell: Cell) -> None:
        self.waiting.append(cell)

    def wait(self, seconds: float | None) -> Ended | None:
        self._send()
        until = time.monotonic() + (float("inf") if seconds is None else seconds)
        while self.running or self.refused:
            if self.refused:
                return self.refused.pop()
            if (ended := self._polled(LOOK)) is not None:
                return ended
            if time.monotonic() > until:
                break
            time.sleep(1)
        return None

    def _send(self) -> None:
        """Submit the waiting cells to Slurm together, as one array job."""
        if not self.waiting:
            return
        cells, self.waiting = self.waiting, []
        # block signals until the jobs are known; local jobs are processes of this terminal and inherit the mask, so
        # that Ctrl-C does not reach them: they are stopped by SIGTERM
        held = {signal.SIGINT} if self.cluster == "local" else set(SIGNALS)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
        begun = now(self.folder.parent)  # before submitting: a job may be quick
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(SlurmCell(*self._work(cell))) for cell in cells]
            self.running |= zip(jobs, cells, strict=True)
            self.begun |= dict.fromkeys(jobs, begun)
        except Exception as error:  # from submitit: sbatch failed
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            if not self.begun:
                raise ConfigError(reason) from error
            self.refused += [Ended(cell, "lost", reason) for cell in cells]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _work(self, cell: Cell) -> tuple[dict[str, Any], str, str, int | None]:
        return cell.config, self.sweep, str(Path.cwd()), self.threads

    def _polled(self, pause: float) -> Ended | None:
        """The next cell that ends, if one has; None also while a file server does not answer, which is told once."""
        try:
            self._look(pause)
            ended = self._next()
        except OSError as error:
            if not self.blind:
                console.say(f"{error}: the sweep goes on when this does")
            self.blind = True
            return None
        self.blind = False
        return ended

    def _look(self, pause: float) -> None:
        """Note which jobs have ended, and in how many consecutive polls."""
        if self.cluster == "local":
            self.over = {job.job_id: (job.state, 2) for job in self.running if job.done()}
            return
        if time.monotonic() - self.looked < pause:
            return
        self.looked = time.monotonic()
        show = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
        listed = subprocess.run(show, capture_output=True, text=True, check=False)
        if listed.returncode:  # Slurm is temporarily unavailable
            self.unanswered += 1
            if self.unanswered == PATIENCE:
                said = (listed.stderr.strip().splitlines() or [f"exit code {listed.returncode}"])[-1]
                console.say(f"squeue does not answer ({said}): which jobs have died is not known until it does")
            return
        self.unanswered = 0
        known = dict(line.split() for line in listed.stdout.splitlines())
        # of a job that has ended Slurm may forget how
        ended = {name: state for name, (state, _) in self.over.items() if state in OVER}
        forgotten = "no longer known to Slurm"
        states = {job.job_id: known.get(job.job_id) or ended.get(job.job_id, forgotten) for job in self.running}
        looks = {name: self.over.get(name, ("", 0))[1] + 1 for name in states}
        self.over = {name: (state, looks[name]) for name, state in states.items() if state in OVER or name not in known}

    def _next(self) -> Ended | None:
        there = set(self.folder.iterdir())  # a lookup per file may return a file server's stale cache
        for job, cell in self.running.items():
            state, looks = self.over.get(job.job_id, ("", 0))
            if job.paths.result_pickle in there or looks > 1:
                ended = self._ended(job, cell, state)
                del self.running[job]
                return ended
        return None

    def _ended(self, job: Any, cell: Cell, state: str) -> Ended:
        if job.paths.result_pickle.exists():
            try:
                return Ended(cell, *job.result())
            except Exception as error:  # from submitit, with the job's traceback between lines of dashes
                _, _, trace = str(error).partition(22 * "-" + "\n")
                told = (trace.partition(22 * "-")[0] or str(error)).strip() or type(error).__name__
                return Ended(cell, "lost", f"job {job.job_id}: {told.splitlines()[-1]}", told)
        store = Store(cell.config["paths"]["results"])
        record = store.outcome(cell.run_id, self.begun[job], cell.config["force"])
        if record is not None and record.status != "interrupted":
            return Ended(cell, record.status)
        if state == "CANCELLED":
            return Ended(cell, "interrupted", "cancelled")
        # also if it has saved, as Slurm has ended it, not the user
        return Ended(cell, "lost", f"job {job.job_id} left no result, {state}; its log: {job.paths.stderr}")

    def stop(self) -> None:
        names = [job.job_id for job in self.running if not (self.cluster == "local" and job.done())]
        say_stopping(len(names))
        if self.cluster == "local":
            for name in names:  # the pid of the job's process; submitit's cancel gives it only a second
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name), signal.SIGTERM)
        elif names:
            subprocess.run(["scancel", *names], check=False)
        until = time.monotonic() + STOPPING
        while self.running and time.monotonic() < until:
            if self._polled(2) is None:
                time.sleep(1)
        for job in self.running:
            job.cancel(check=False)
        self.running, self.waiting, self.refused = {}, [], []

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting) + len(self.refused)
