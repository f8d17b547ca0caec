"""How a sweep gets through its cells, whatever becomes of them; with a queue that does what a test says."""

import json
import os
import signal
import subprocess
import time
from collections import deque
from dataclasses import asdict

import pytest
from common import SHORT, one_line
from processes import command, finish, start

from bench import claim, launcher, queues, train
from bench.__main__ import main as bench_main
from bench.interrupt import Interrupted
from bench.launcher import Cell, Ended, work_through
from bench.record import run_id
from bench.status import PLAN
from bench.store import Store


class Scripted:
    """A queue whose cells end as ``fates`` say, one after another; ``ok`` and ``failed`` are recorded."""

    def __init__(self, fates, record):
        self.fates, self.record = fates, record
        self.cells, self.tries, self.stopped = deque(), [], False

    def submit(self, cell):
        self.cells.append(cell)

    def wait(self, seconds):
        if not self.cells:
            return None
        cell = self.cells.popleft()
        self.tries.append(cell.run_id)
        fate = self.fates[cell.run_id].pop(0)
        if isinstance(fate, BaseException):
            raise fate
        if fate.endswith(", then lost"):
            self.record(cell.run_id, "interrupted" if fate.startswith("saved") else "failed")
            fate = "lost"
        if fate in ("ok", "failed"):
            self.record(cell.run_id, fate)
        return Ended(cell, fate, *(("the machine is gone", "Traceback:\nthe machine is gone\n") * (fate == "lost")))

    def stop(self):
        self.stopped = True
        self.cells.clear()

    def __len__(self):
        return len(self.cells)


@pytest.fixture
def sweep(tmp_path, composed, make_record, monkeypatch):
    """Fates of cells a, b, … → the queue and the store when the sweep is through; they are seeds of one cell."""
    store = Store(tmp_path / "results")

    def record(name, status):
        work = store.workspace(name)
        store.publish(make_record(run_id=name, status=status, error=None if status == "ok" else "why"), work)

    def run(*fates, retries=0, fail_fast=False, force=False, started=0.0):
        settings = [(f"seed={seed}", f"force={force}") for seed in range(len(fates))]
        configs = [train.config.check(composed(*each)) for each in settings]
        cells = [Cell(run_id(config), config) for config in configs]
        queue = Scripted({cell.run_id: list(fate) for cell, fate in zip(cells, fates, strict=True)}, record)
        folder = tmp_path / "results/sweeps/x"
        folder.mkdir(parents=True, exist_ok=True)
        plans = {cell.run_id: {"overrides": [], "epochs": 5, "force": force} for cell in cells}
        state = {"cells": plans, "started": started}
        (folder / PLAN).write_text(json.dumps(state))
        work_through(cells, queue, store, state, retries, fail_fast, folder)
        there = {record.run_id: record for record in store.load_all()}
        return queue, {cell.config["seed"]: there.get(cell.run_id) for cell in cells}

    monkeypatch.setattr(launcher, "POLL", 0.01)
    return run


def test_a_lost_cell_is_tried_again_and_the_others_go_on(sweep, capsys):
    queue, records = sweep(["ok"], ["lost", "lost", "ok"], ["failed"], ["ok"], retries=2)
    assert [records[seed].status for seed in range(4)] == ["ok", "ok", "failed", "ok"]
    assert len(queue.tries) == 6
    out = capsys.readouterr().out
    assert "the machine is gone; try 2 of 3" in out
    assert "the machine is gone; try 3 of 3" in out


def test_a_cell_that_is_lost_too_often_is_recorded_with_the_reason(sweep, tmp_path, capsys):
    _, records = sweep(["lost", "lost"], ["ok"], retries=1)
    assert (records[0].status, records[0].error) == ("failed", "the machine is gone")
    told = (tmp_path / "results/runs" / records[0].run_id / "error.txt").read_text()
    assert told == "Traceback:\nthe machine is gone\n"
    assert records[1].status == "ok"
    assert "seed 0: failed, the machine is gone; 0 left" in capsys.readouterr().out


@pytest.mark.parametrize("fail_fast", [True, False])
def test_a_lost_cell_that_had_saved_stays_interrupted_and_stops_nobody(sweep, capsys, fail_fast):
    queue, records = sweep(["saved, then lost"], ["ok"], fail_fast=fail_fast)
    assert [records[seed].status for seed in range(2)] == ["interrupted", "ok"]
    assert "the machine is gone" in capsys.readouterr().out
    assert not queue.stopped


def test_a_cell_that_failed_before_it_was_lost_keeps_its_record(sweep, capsys):
    _, records = sweep(["failed, then lost"])
    assert (records[0].status, records[0].error) == ("failed", "why")
    assert "the machine is gone" in capsys.readouterr().out


@pytest.mark.parametrize("dies", [True, False])
def test_the_claim_of_a_lost_machine_is_waited_for(sweep, tmp_path, composed, monkeypatch, capsys, dies):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if dies and len(waited) == 3:
            monkeypatch.setattr(claim, "EXPIRY", -1.0)  # so long a silence and it counts as dead

    monkeypatch.setattr(launcher, "POLL", 1.0)
    monkeypatch.setattr(launcher.time, "sleep", sleep)
    folder = tmp_path / "results/runs" / run_id(train.config.check(composed("seed=0", "force=false")))
    folder.mkdir(parents=True)
    (folder / claim.CLAIM).write_text(json.dumps(asdict(claim.this_process()) | {"machine": "another"}))
    _, records = sweep(["lost"])
    if dies:
        assert (records[0].status, records[0].error) == ("failed", "the machine is gone")
        assert waited == [1.0] * 3
    else:
        assert records[0] is None
        assert "not recorded, as another process is working on it" in capsys.readouterr().out
        assert sum(waited) > claim.EXPIRY  # it had the time to die


def test_a_machine_that_does_not_see_the_folder_loses_its_cells_with_the_reason():
    status, reason = queues.at_work({}, "x", "/nowhere/to/be/found", 1)
    assert status == "lost"
    assert reason.startswith("/nowhere/to/be/found: no such folder on ")


def test_a_cell_that_cannot_even_begin_is_lost_with_a_line(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no memory:\nall of it is taken")

    monkeypatch.setattr(train, "run", refuse)
    assert launcher.execute({}, "x") == ("lost", "RuntimeError: no memory:")


def test_fail_fast_stops_at_the_first_failure(sweep, capsys):
    queue, records = sweep(["ok"], ["failed"], ["ok"], fail_fast=True)
    assert queue.stopped
    assert records[2] is None
    assert "sweep.fail_fast=true: the rest is not started" in capsys.readouterr().out


def test_a_stop_is_noted_and_the_rest_not_started(sweep, tmp_path):
    queue, records = sweep(["ok"], [KeyboardInterrupt()], ["ok"])
    assert queue.stopped
    assert records[2] is None
    assert f'"stopped": {int(signal.SIGINT)}' in (tmp_path / "results/sweeps/x" / PLAN).read_text()


def test_what_runs_is_stopped_when_the_sweep_cannot_go_on(sweep, monkeypatch, capsys):
    stopped = []

    def stop(queue):
        stopped.append(queue)
        raise Interrupted(signal.SIGINT)  # by who does not want to wait

    monkeypatch.setattr(Scripted, "stop", stop)
    with pytest.raises(OSError, match="Stale file handle"):
        sweep([OSError(116, "Stale file handle")], ["ok"])
    assert len(stopped) == 1
    assert "the sweep cannot go on: OSError: [Errno 116] Stale file handle\n" in capsys.readouterr().out


def test_who_asks_twice_does_not_wait_and_the_stop_is_noted(sweep, tmp_path, monkeypatch):
    def stop(queue):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(Scripted, "stop", stop)
    sweep([Interrupted(signal.SIGTERM)], ["ok"])
    assert f'"stopped": {int(signal.SIGTERM)}' in (tmp_path / "results/sweeps/x" / PLAN).read_text()


def test_a_cell_that_another_sweep_has_is_taken_over_when_that_leaves_it(sweep, monkeypatch):
    answers = ["process 7 on elsewhere is working on it", "process 7 on elsewhere is working on it", None]
    monkeypatch.setattr(Store, "holder", lambda *_: answers.pop(0) if answers else None)
    queue, records = sweep(["busy", "ok"], ["ok"])
    assert [record.status for record in records.values()] == ["ok", "ok"]
    assert len(queue.tries) == 3


def test_a_forced_cell_that_another_sweep_has_is_run_all_the_same(sweep, monkeypatch):
    sweep(["ok"])  # from before
    answers = ["process 7 on elsewhere is working on it", None]
    monkeypatch.setattr(Store, "holder", lambda *_: answers.pop(0) if answers else None)
    queue, records = sweep(["busy", "ok"], force=True, started=time.time())
    assert [record.status for record in records.values()] == ["ok"]
    assert len(queue.tries) == 2


def test_what_cannot_be_recorded_is_told(sweep, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "fail", full)
    _, records = sweep(["lost"], ["ok"])
    assert [records[0], records[1].status] == [None, "ok"]
    assert "the machine is gone; cannot be recorded: [Errno 28] No space left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("sweep.retries=-1", "sweep.retries=-1: must be a whole number, 0 or more"),
        ("sweep.fail_fast=maybe", "sweep.fail_fast=maybe: must be one of true, false"),
        ("hydra/launcher=rey", "hydra/launcher=rey: no such option (did you mean ray?); choose one of in_process, ray"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(bench, tmp_path, setting, said):
    code, _, err = bench("-m", "seed=0,1", setting)
    assert code == 2
    assert said in one_line(err)
    assert not (tmp_path / "results").exists()


def test_failures_are_summed_up_with_the_traceback_and_the_command(bench, tmp_path):
    diverging = ("optimizer=sgd", "optimizer.lr=1e20,0.01", "trainer.clip_norm=null")
    code, out, _ = bench("-m", "model=lenet", *diverging, *SHORT, "progress=none")
    assert code == 1
    assert "1 of 2 cells ok" in out
    lines = out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if "failed: FloatingPointError: the training loss is" in line)
    assert lines[at + 1].strip().startswith(f"traceback: {tmp_path}/results/runs/")
    assert lines[at + 1].endswith("error.txt")
    again = lines[at + 2].strip().removeprefix("again: bench ").split()
    code, out, err = bench(*[setting for setting in again if not setting.startswith("paths.results")])
    assert code == 1
    assert "resumes from" not in out + err  # it failed before its first checkpoint


@pytest.mark.slow
def test_two_sweeps_at_once_write_each_cell_once_and_both_end_well(tmp_path):
    sweep = ("-m", "model=lenet", "seed=0,1,2", *SHORT, "trainer.max_epochs=10", "progress=none")
    logs = [tmp_path / "one.log", tmp_path / "other.log"]
    both = [command(bench_main, *sweep, f"paths.results={tmp_path}", log=log) for log in logs]
    assert [finish(process) for process in both] == [0, 0]
    outputs = [log.read_text() for log in logs]
    assert all("3 of 3 cells ok" in out for out in outputs)
    assert len(Store(tmp_path).load_all()) == 3
    trained = [line for out in outputs for line in out.splitlines() if "working on it" in line]
    assert trained  # they met
    assert not list(tmp_path.glob("runs/*/claim.json"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount a small disk")
def test_on_a_full_disk_a_cell_fails_with_the_reason_and_goes_on_when_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no mounts here")
    settings = ("model=lenet", *SHORT, "trainer.max_epochs=2", f"paths.results={disk}")  # a checkpoint takes 760 kB
    log = tmp_path / "log"
    try:
        assert finish(start(*settings, log=log)) == 1
        (record,) = Store(disk).load_all()
        assert record.status == "failed"
        assert "No space left on device" in record.error
        assert not list(disk.glob("runs/*/checkpoints/.*"))
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert finish(start(*settings, log=log)) == 0, log.read_text()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
