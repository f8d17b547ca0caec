"""Sweeps by submitit: on processes of this machine, and on a Slurm that a few scripts play.

The real Slurm is that of ``tests/slurm/loopback.sh``.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from common import SHORT, one_line

from bench.config import ConfigError
from bench.interrupt import Interrupted
from bench.launcher import Cell
from bench.record import run_id
from bench.slurm import SlurmCell, SlurmJobs
from bench.store import Store

pytest.importorskip("submitit")

LOCAL = ("-m", "hydra/launcher=slurm", "hydra.launcher.cluster=local", "hydra.launcher.cpus_per_task=1")
CELLS = ("model=lenet", "seed=0,1", *SHORT, "trainer.max_epochs=60", "progress=none")
"""Two cells that train for some seconds each."""


def begin(results):
    command = [sys.executable, "-m", "bench", *LOCAL, *CELLS, "sweep.retries=1", f"paths.results={results}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def end(process):
    """Its exit code and output."""
    out, _ = process.communicate(timeout=300)
    return process.returncode, out


def trainer_of(results, seed, *others):
    """The number of the process that trains the cell with that seed, once an epoch of it is done; not the others'."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for claim in results.glob(f"runs/*-s{seed}-*/claim.json"):
            try:
                pid = json.loads(claim.read_text())["pid"]
            except FileNotFoundError:  # dead, and just being taken over
                continue
            if pid not in others and claim.with_name("metrics.csv").exists():
                return pid
        time.sleep(0.1)
    raise AssertionError(f"seed {seed} does not train")


def logs(results):
    return "".join(file.read_text() for file in results.glob("sweeps/*/jobs/*.out"))


@pytest.mark.slow
def test_a_sweep_whose_one_cell_runs_out_of_time_ends_ok(tmp_path):
    process = begin(tmp_path)
    os.kill(trainer_of(tmp_path, 1), signal.SIGUSR2)
    code, out = end(process)
    assert code == 0, out
    left = [line.rsplit("; ", 1)[1][:6] for line in out.splitlines() if " left" in line]
    assert left in (["1 left", "0 left"], ["0 left", "0 left"])  # two may end at once
    assert "2 of 2 cells ok" in out
    assert "Requeued job" in logs(tmp_path)
    assert logs(tmp_path).count("goes on from its last checkpoint") == 1
    assert {(r.seed, r.status, r.epochs) for r in Store(tmp_path).load_all()} == {(0, "ok", 60), (1, "ok", 60)}


@pytest.mark.slow
def test_a_killed_cell_is_tried_again_and_failed_when_killed_once_more(tmp_path):
    process = begin(tmp_path)
    first, other = trainer_of(tmp_path, 0), trainer_of(tmp_path, 1)
    os.kill(first, signal.SIGKILL)
    os.kill(other, signal.SIGKILL)
    os.kill(trainer_of(tmp_path, 0, first), signal.SIGKILL)
    code, out = end(process)
    assert code == 1, out
    assert out.count("try 2 of 2") == 2
    assert "1 of 2 cells ok" in out
    records = {record.seed: record for record in Store(tmp_path).load_all()}
    assert [records[seed].status for seed in (0, 1)] == ["failed", "ok"]
    assert "left no result" in records[0].error
    assert records[0].error in out


@pytest.mark.slow
def test_ctrl_c_saves_all_cells_and_the_same_command_goes_on(tmp_path):
    process = begin(tmp_path)
    trainer_of(tmp_path, 0)
    trainer_of(tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all that run in it
    code, out = end(process)
    assert code == 130, out
    assert "0 of 2 cells ok" in out
    assert out.count("interrupted: stopped by SIGTERM") == 2
    assert [record.status for record in Store(tmp_path).load_all()] == ["interrupted", "interrupted"]
    code, out = end(begin(tmp_path))
    assert code == 0, out
    assert "2 of 2 cells ok" in out
    assert logs(tmp_path).count("goes on from its last checkpoint") == 2


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("timeout_min=0", "whole number, 1 or more"),
        ("cpus_per_task=1.5", "whole number, 1 or more"),
        ("mem_gb=much", "whole number, 1 or more"),
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


def test_without_slurm_it_says_so(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = bench("-m", "hydra/launcher=slurm", "model=lenet")
    assert code == 2
    assert "no sbatch here" in one_line(err)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Play Slurm's programs: name, what it does in shell → a script of that name on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("bench.slurm.LOOK", 0.0)
    monkeypatch.setattr("bench.slurm.time.sleep", lambda seconds: None)

    def play(name, does):
        script = folder / name
        script.write_text(f"#!/bin/sh\n{does}\n")
        script.chmod(0o755)

    for name, does in {"srun": "", "sbatch": "echo Submitted batch job 7", "squeue": "", "scancel": ""}.items():
        play(name, does)
    return play


@pytest.fixture
def jobs(slurm, composed, tmp_path):
    """A queue on that Slurm, and a cell."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(composed("model=lenet", *SHORT), resolve=True)
    settings = dict(cluster="slurm", max_parallel=2, requeues=1, timeout_min=5, cpus_per_task=2, gpus_per_node=None)
    settings |= dict(mem_gb=None, partition="low", signal_delay_s=60, additional_parameters={"account": "me"})
    return SlurmJobs([], "sweep", tmp_path / "sweep", **settings), Cell(run_id(config), config)


def test_a_job_is_asked_for_with_its_settings(jobs, slurm, tmp_path):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo 7 PENDING")
    assert queue.wait(0) is None
    assert len(queue) == 1
    script = tmp_path / "sweep/jobs/7_submission.sh"
    flags = ("partition=low", "time=5", "cpus-per-task=2", "requeue", "signal=USR2@60", "account=me")
    assert all(f"#SBATCH --{flag}\n" in script.read_text() for flag in flags)
    assert "--cpus-per-task=2 " in script.read_text().split("srun", 1)[1]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"])
def test_a_job_in_the_queue_is_waited_for(jobs, slurm, state):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", f"echo 7 {state}; echo 8 FAILED")
    assert queue.wait(0) is None
    assert queue.wait(0) is None
    assert len(queue) == 1


def test_a_queue_that_does_not_answer_is_asked_again(jobs, slurm):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo cannot contact the controller >&2; exit 1")
    assert queue.wait(0) is None
    assert queue.wait(0) is None
    slurm("squeue", "echo 7 RUNNING")
    assert queue.wait(0) is None
    assert len(queue) == 1


@pytest.mark.parametrize(
    ("state", "status", "told"),
    [
        ("7 FAILED", "lost", "job 7 left no result, FAILED; its log: "),
        ("7 OUT_OF_MEMORY", "lost", "OUT_OF_MEMORY"),
        ("7 PREEMPTED", "lost", "PREEMPTED"),
        ("", "lost", "no longer known to Slurm"),
        ("7 CANCELLED", "interrupted", "cancelled"),
    ],
)
def test_a_job_that_has_ended_without_a_result_is_noticed(jobs, slurm, state, status, told):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", f"echo {state}" if state else "")
    ended = queue.wait(None)
    assert (ended.cell, ended.status) == (cell, status)
    assert told in ended.reason
    assert len(queue) == 0


def test_a_job_that_slurm_forgets_for_one_look_is_not_given_up(jobs, slurm):
    queue, cell = jobs
    queue.submit(cell)
    for state in ("7 RUNNING", "", "7 PENDING", "7 FAILED", "7 RUNNING"):
        slurm("squeue", f"echo {state}" if state else "")
        assert queue.wait(-1) is None
    assert len(queue) == 1


@pytest.mark.parametrize(
    ("result", "status", "told"),
    [
        (("success", ("busy", "another works on it")), "busy", "another works on it"),
        (("error", "Traceback:\nModuleNotFoundError: No module named 'bench'"), "lost", "No module named 'bench'"),
    ],
)
def test_a_result_ends_the_job_whatever_the_queue_says(jobs, slurm, tmp_path, result, status, told):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo 7 RUNNING")
    assert queue.wait(0) is None
    (tmp_path / "sweep/jobs/7_0_result.pkl").write_bytes(pickle.dumps(result))
    ended = queue.wait(None)
    assert (ended.cell, ended.status) == (cell, status)
    assert told in ended.reason


def test_what_sbatch_refuses_at_first_ends_the_sweep_and_later_is_a_lost_cell(jobs, slurm):
    queue, cell = jobs
    slurm("sbatch", "echo sbatch: error: invalid partition specified: low >&2; exit 1")
    queue.submit(cell)
    with pytest.raises(ConfigError, match="invalid partition specified: low"):
        queue.wait(0)
    slurm("sbatch", "echo Submitted batch job 7")
    slurm("squeue", "echo 7 FAILED")
    queue.submit(cell)
    assert queue.wait(None).status == "lost"
    slurm("sbatch", "echo sbatch: error: Unable to contact slurm controller >&2; exit 1")
    queue.submit(cell)
    ended = queue.wait(None)
    assert (ended.status, ended.reason) == ("lost", "sbatch: error: Unable to contact slurm controller")


def test_a_stop_cancels_all_jobs(jobs, slurm, tmp_path):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo 7 RUNNING")
    assert queue.wait(0) is None
    slurm("squeue", f"test -f {tmp_path / 'cancelled'} && echo 7 CANCELLED || echo 7 RUNNING")
    slurm("scancel", f"echo $* > {tmp_path / 'cancelled'}")
    queue.stop()
    assert (tmp_path / "cancelled").read_text() == "7\n"
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("shown", "requeued", "told"),
    [
        ("JobState=RUNNING Restarts=0 PreemptTime=2026-01-02T03:04:05", True, None),
        ("JobState=RUNNING Restarts=0 PreemptTime=None", False, ("interrupted", "stopped by SIGTERM")),
        ("JobState=COMPLETING Restarts=0 PreemptTime=None", False, None),
        ("", False, None),
    ],
)
def test_a_cell_that_has_saved_leaves_its_job_as_slurm_wants_it(slurm, tmp_path, monkeypatch, shown, requeued, told):
    def stopped(*_):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("bench.slurm.at_work", stopped)
    for name, value in {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    slurm("scontrol", f'if [ "$1" = requeue ]; then echo $2 > {tmp_path / "requeued"}; else echo "{shown}"; fi')
    cell = SlurmCell({}, "sweep", str(tmp_path), 1)
    if told is None:  # no result, by which the sweep would take it for ended
        with pytest.raises(SystemExit) as stop:
            cell()
        assert stop.value.code == 128 + signal.SIGTERM
    else:
        assert cell() == told
    assert (tmp_path / "requeued").exists() == requeued
    assert not requeued or (tmp_path / "requeued").read_text() == "7_1\n"
