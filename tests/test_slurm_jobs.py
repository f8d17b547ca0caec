"""Jobs of Slurm: how they are asked for, watched, and ended; Slurm's commands are replaced."""

import os
import pickle
import signal
from types import SimpleNamespace

import pytest
from common import SHORT

from bench.errors import ConfigError
from bench.interrupt import Interrupted
from bench.launcher import Cell
from bench.record import run_id
from bench.slurm import PROGRAMS, SlurmCell, SlurmJobs

pytest.importorskip("submitit")


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


def test_a_queue_that_does_not_answer_for_long_is_told_once(jobs, slurm, capsys):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo cannot contact the controller >&2; exit 1")
    for _ in range(5):
        assert queue.wait(-1) is None
    told = "squeue does not answer (cannot contact the controller): which jobs have died is not known until it does"
    assert capsys.readouterr().out.splitlines() == [told]


def test_a_file_server_that_does_not_answer_for_a_while_is_waited_for(jobs, slurm, monkeypatch, capsys):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo 7 FAILED")
    answers = [OSError(116, "Stale file handle"), OSError(116, "Stale file handle"), SimpleNamespace(status="ok")]

    def outcome(*_):
        if isinstance(answer := answers.pop(0), OSError):
            raise answer
        return answer

    monkeypatch.setattr("bench.slurm.Store.outcome", outcome)
    assert queue.wait(None).status == "ok"
    assert answers == []
    assert capsys.readouterr().out.splitlines() == ["[Errno 116] Stale file handle: the sweep goes on when this does"]


@pytest.mark.parametrize("missing", PROGRAMS)
def test_each_of_slurms_programs_is_needed(jobs, slurm, tmp_path, monkeypatch, missing):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin" / missing).unlink()
    settings = dict(max_parallel=2, requeues=1, timeout_min=5, cpus_per_task=2, gpus_per_node=None, mem_gb=None)
    settings |= dict(partition=None, signal_delay_s=60, additional_parameters={})
    with pytest.raises(ConfigError, match=f"^hydra.launcher.cluster=slurm: {missing} not found"):
        SlurmJobs([], "sweep", tmp_path, cluster="slurm", **settings)


@pytest.mark.parametrize(
    ("state", "recorded", "status", "told"),
    [
        ("7 FAILED", None, "lost", "job 7 left no result, FAILED; its log: "),
        ("7 OUT_OF_MEMORY", None, "lost", "OUT_OF_MEMORY"),
        ("7 PREEMPTED", None, "lost", "PREEMPTED"),
        ("", None, "lost", "no longer known to Slurm"),
        ("7 CANCELLED", None, "interrupted", "cancelled"),
        ("7 PREEMPTED", "interrupted", "lost", "PREEMPTED"),  # only the user interrupts a cell that has saved
        ("7 OUT_OF_MEMORY", "interrupted", "lost", "OUT_OF_MEMORY"),
        ("7 CANCELLED", "interrupted", "interrupted", "cancelled"),
        ("7 FAILED", "ok", "ok", ""),
        ("7 FAILED", "failed", "failed", ""),
    ],
)
def test_a_job_that_has_ended_without_a_result_is_noticed(jobs, slurm, monkeypatch, state, recorded, status, told):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", f"echo {state}" if state else "")
    record = None if recorded is None else SimpleNamespace(status=recorded)
    monkeypatch.setattr("bench.slurm.Store.outcome", lambda *_: record)
    ended = queue.wait(None)
    assert (ended.cell, ended.status) == (cell, status)
    assert told in ended.reason
    assert len(queue) == 0


def test_a_job_that_was_cancelled_and_is_forgotten_was_cancelled(jobs, slurm):
    queue, cell = jobs
    queue.submit(cell)
    slurm("squeue", "echo 7 CANCELLED")
    assert queue.wait(-1) is None
    slurm("squeue", "")
    ended = queue.wait(None)
    assert (ended.status, ended.reason) == ("interrupted", "cancelled")


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
