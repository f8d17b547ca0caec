"""Sweeps by submitit on processes of this machine, and what of their settings is refused.

The real Slurm is that of ``tests/slurm/loopback.sh``; its jobs are tested in ``test_slurm_jobs.py``.
"""

import contextlib
import json
import os
import signal

import pytest
from common import SHORT, one_line, wait_for
from processes import command, finish

from bench.__main__ import main as bench_main
from bench.interrupt import SIGNALS
from bench.launcher import Cell
from bench.queues import say_stopping
from bench.slurm import PROGRAMS, SlurmJobs
from bench.store import Store

pytest.importorskip("submitit")

LOCAL = ("-m", "hydra/launcher=slurm", "hydra.launcher.cluster=local", "hydra.launcher.cpus_per_task=1")
CELLS = ("model=lenet", "seed=0,1", *SHORT, "trainer.max_epochs=60", "progress=none")
"""Two cells that train for some seconds each."""


def begin(results):
    log = results / "sweep.log"
    log.write_text("")
    return command(bench_main, *LOCAL, *CELLS, "sweep.retries=1", f"paths.results={results}", log=log)


def end(process, results):
    """Its exit code and output."""
    return finish(process), (results / "sweep.log").read_text()


def trainers(results):
    """Seed → number of the process that has that cell, once an epoch of it is done, by whomever."""
    found = {}
    for claim in results.glob("runs/*/claim.json"):
        with contextlib.suppress(FileNotFoundError):  # dead, and just being taken over
            pid = json.loads(claim.read_text())["pid"]
            if claim.with_name("metrics.csv").exists():
                found[int(claim.parent.name.split("-s")[1][0])] = pid
    return found


def logs(results):
    return "".join(file.read_text() for file in results.glob("sweeps/*/jobs/*.out"))


@pytest.mark.slow
def test_a_cell_out_of_time_is_queued_again_a_killed_one_tried_again_and_failed_when_killed_once_more(tmp_path):
    process = begin(tmp_path)
    told = {0: [], 1: []}

    def both_twice():
        for seed, pid in trainers(tmp_path).items():
            if pid not in told[seed] and len(told[seed]) < 2:
                out_of_time = seed == 1 and not told[seed]
                os.kill(pid, signal.SIGUSR2 if out_of_time else signal.SIGKILL)
                told[seed].append(pid)
        return all(len(pids) == 2 for pids in told.values())

    wait_for(both_twice)
    code, out = end(process, tmp_path)
    assert code == 1, out
    assert "Requeued job" in logs(tmp_path)
    assert out.count("try 2 of 2") == 2
    assert "1 of 2 cells ok" in out
    records = {record.seed: record for record in Store(tmp_path).load_all()}
    assert [records[seed].status for seed in (0, 1)] == ["failed", "ok"]
    assert "left no result" in records[0].error
    assert records[0].error in out
    assert records[1].epochs == 60
    assert "resumes from its last checkpoint" in logs(tmp_path)


@pytest.mark.slow
def test_ctrl_c_saves_all_cells_and_the_same_command_goes_on(tmp_path):
    process = begin(tmp_path)
    wait_for(lambda: len(trainers(tmp_path)) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all that run in it
    code, out = end(process, tmp_path)
    assert code == 130, out
    assert "0 of 2 cells ok" in out
    assert out.count("interrupted: stopped by SIGTERM") == 2
    assert [record.status for record in Store(tmp_path).load_all()] == ["interrupted", "interrupted"]
    code, out = end(begin(tmp_path), tmp_path)
    assert code == 0, out
    assert "2 of 2 cells ok" in out
    assert logs(tmp_path).count("resumes from its last checkpoint") == 2


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("timeout_min=0", "whole number, 1 or more"),
        ("cpus_per_task=1.5", "whole number, 1 or more"),
        ("mem_gb=much", "null or a whole number, 1 or more"),
        ("timeout_min=null", "must be a whole number, 1 or more"),
        ("signal_delay_s=null", "must be a whole number, 1 or more"),
        ("cluster=null", "one of slurm, local"),
        ("max_parallel=-1", "whole number, 1 or more"),
        ("signal_delay_s=true", "whole number, 1 or more"),
        ("cluster=pbs", "one of slurm, local"),
    ],
)
def test_a_wrong_setting_is_told_before_any_cell_runs(bench, tmp_path, setting, told):
    code, _, err = bench("-m", "hydra/launcher=slurm", f"hydra.launcher.{setting}", "model=lenet")
    assert code == 2
    assert f"hydra.launcher.{setting.split('=')[0]}=" in one_line(err)
    assert told in err
    assert not (tmp_path / "results").exists()


def test_a_setting_that_there_is_not_is_told(bench, tmp_path):
    code, _, err = bench("-m", "hydra/launcher=slurm", "hydra.launcher.partion=low", "model=lenet")
    assert code == 2
    assert "partion" in one_line(err)
    assert not (tmp_path / "results").exists()


def test_jobs_that_would_be_told_to_stop_at_once_are_refused(bench):
    settings = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=120")
    code, _, err = bench(*LOCAL, *settings, "model=lenet")
    assert code == 2
    assert "hydra.launcher.signal_delay_s=120: must be less than" in one_line(err)


@pytest.mark.parametrize(("cluster", "held"), [("slurm", set(SIGNALS)), ("local", {signal.SIGINT})])
def test_signals_wait_until_the_jobs_are_known(tmp_path, monkeypatch, cluster, held):
    for name in PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = {"requeues": 0, "max_parallel": 1, "timeout_min": 5, "cpus_per_task": 1, "gpus_per_node": None}
    settings |= {"mem_gb": None, "partition": None, "signal_delay_s": 60, "additional_parameters": {}}
    queue = SlurmJobs([], sweep="x", folder=tmp_path, cluster=cluster, **settings)
    seen = []
    monkeypatch.setattr(
        queue.executor, "submit", lambda job: seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, [])) or object()
    )
    monkeypatch.setattr(queue.executor, "batch", contextlib.nullcontext)
    queue.submit(Cell("a", {"paths": {"results": str(tmp_path)}}))
    queue._send()
    assert seen == [held]
    assert len(queue) == 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_it_is_said_what_a_stop_waits_for(capsys):
    say_stopping(0)
    assert capsys.readouterr().out == ""
    say_stopping(2)
    assert capsys.readouterr().out == "stopping 2 cells, which save first; a second signal stops at once\n"


def test_without_slurm_it_says_so(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = bench("-m", "hydra/launcher=slurm", "model=lenet")
    assert code == 2
    assert "sbatch not found" in one_line(err)
