import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import files, publish

from bench.claim import Claim
from bench.errors import ConfigError
from bench.store import LAST, BusyError, Store


def test_a_published_record_is_loaded_again(tmp_path, make_record):
    store, record = Store(tmp_path), make_record()
    folder = publish(store, record)
    assert folder == tmp_path / "runs" / record.run_id
    assert sorted(file.name for file in folder.iterdir()) == ["metrics.csv", "record.json"]
    assert store.ok(record.run_id) == record
    assert store.load_all() == [record]


def test_a_cell_under_way_has_no_record(tmp_path):
    store = Store(tmp_path)
    (store.workspace("digits-lenet-s0-0123456789").path / "metrics.csv").write_text("half")
    assert store.load_all() == []
    assert store.ok("digits-lenet-s0-0123456789") is None


def test_an_ok_record_stays_until_another_takes_its_place(tmp_path, make_record):
    store, old = Store(tmp_path), make_record(test=0.8)
    publish(store, old)
    work = store.workspace(old.run_id)
    assert store.load_all() == [old]
    store.publish(make_record(test=0.9), work)
    assert [record.metrics["test"]["top1"] for record in store.load_all()] == [0.9]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [old.run_id]


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_record_that_is_not_ok_is_replaced(tmp_path, make_record, status):
    store = Store(tmp_path)
    publish(store, make_record(status=status, error="why"))
    assert store.ok(make_record().run_id) is None
    publish(store, make_record())
    assert [record.status for record in store.load_all()] == ["ok"]


def test_a_try_that_fails_leaves_the_ok_record_and_is_still_told_of(tmp_path, make_record):
    store, ok = Store(tmp_path), make_record()
    publish(store, ok)
    failed = make_record(status="failed", error="why")
    publish(store, failed)
    assert store.load_all() == [ok]
    assert store.outcome(failed.run_id, since=0) == failed


def test_the_outcome_is_an_ok_record_or_one_of_the_time_in_question(tmp_path, make_record):
    store, now = Store(tmp_path), time.time()
    ok, failed = make_record("lenet"), make_record("nin", status="failed", error="why")
    publish(store, ok)
    publish(store, failed)
    assert store.outcome(ok.run_id, since=now + 60) == ok
    assert store.outcome(failed.run_id, since=now - 60) == failed
    assert store.outcome(failed.run_id, since=now + 60) is None
    assert store.outcome("digits-vgg16-s0-0123456789", since=0) is None


def test_of_a_forced_cell_an_ok_record_from_before_does_not_count(tmp_path, make_record):
    store, now = Store(tmp_path), time.time()
    ok = make_record()
    publish(store, ok)
    assert store.outcome(ok.run_id, since=now + 60, force=True) is store.ok(ok.run_id, since=now + 60) is None
    assert store.outcome(ok.run_id, since=now - 60, force=True) == store.ok(ok.run_id, since=now - 60) == ok


def test_a_workspace_starts_empty_but_for_what_others_make_there_for_a_moment(tmp_path):
    store = Store(tmp_path)
    work = store.workspace("a")
    (work.path / "left.txt").write_text("by a crash")
    work.claim.release()
    (work.path / ".claim.json.0123").touch()
    assert files(store.workspace("a").path) == [".before", ".before/left.txt", ".claim.json.0123", "claim.json"]


def test_a_cell_that_is_finished_in_the_last_moment_is_not_begun_anew(tmp_path, make_record, monkeypatch):
    store, record, take = Store(tmp_path), make_record(), Claim.take

    def late(folder):
        monkeypatch.setattr(Claim, "take", take)
        publish(store, record)
        return Claim.take(folder)

    monkeypatch.setattr(Claim, "take", late)
    with pytest.raises(BusyError, match="another process has just finished it"):
        store.workspace(record.run_id)
    assert store.ok(record.run_id) == record
    assert files(store.path(record.run_id)) == ["metrics.csv", "record.json"]


def test_a_workspace_keeps_what_can_be_gone_on_from(tmp_path, make_record):
    store, failed = Store(tmp_path), make_record(status="failed", error="why")

    def cut_off():
        work = store.workspace(failed.run_id, since=math.inf)
        (work.path / "checkpoints").mkdir()
        for name in (LAST, ".metrics.csv.1.part", "checkpoints/.last.ckpt.2.part", "metrics.csv", "error.txt"):
            (work.path / name).write_text(name)
        store.publish(failed, work)

    cut_off()
    work = store.workspace(failed.run_id)
    assert work.checkpoint == work.path / LAST
    ended, left = [".before", ".before/error.txt", ".before/record.json"], ["checkpoints", LAST, "metrics.csv"]
    assert files(work.path) == [*ended, "checkpoints", LAST, "claim.json", "metrics.csv"]
    assert store.load_all() == []
    store.discard(work)
    assert files(work.path) == sorted([*left, "error.txt", "record.json"])
    assert store.load_all() == [failed]
    store.publish(failed, store.workspace(failed.run_id))
    assert files(work.path) == [*left, "record.json"]
    cut_off()
    again = store.workspace(failed.run_id, since=time.time() + 60)
    aside = [f".before/{name}" for name in left]
    assert files(again.path) == [*sorted([*ended, *aside]), "claim.json"]
    (again.path / "checkpoints").mkdir()
    (again.path / "checkpoints/own").touch()
    store.discard(again)
    assert files(work.path) == sorted([*left, "error.txt", "record.json"])
    store.workspace(failed.run_id).claim.release()  # as if killed: it was cut off then, and has not failed
    assert files(store.workspace(failed.run_id, since=math.inf).path) == [".before", *aside, "claim.json"]


def test_an_earlier_failure_is_lost_neither_in_a_workspace_that_cannot_be_made_nor_on_a_full_disk(
    tmp_path, make_record, monkeypatch
):
    store, failed = Store(tmp_path), make_record(status="failed", error="why")
    publish(store, failed)
    there = files(store.path(failed.run_id))

    def refuse(*_):
        raise OSError("no")

    rename = Path.rename
    with monkeypatch.context() as within:
        within.setattr(Path, "rename", lambda file, to: refuse() if file.name == "metrics.csv" else rename(file, to))
        with pytest.raises(OSError, match="no"):
            store.workspace(failed.run_id)
    assert files(store.path(failed.run_id)) == there
    work = store.workspace(failed.run_id)
    with monkeypatch.context() as within:
        within.setattr("bench.store.write_atomically", refuse)
        with pytest.raises(OSError, match="no"):
            store.publish(failed, work)
    store.discard(work)
    assert store.load_all() == [failed]


def test_beside_an_ok_record_a_discarded_attempt_leaves_the_failure_of_the_one_before(tmp_path, make_record):
    store, ok, failed = Store(tmp_path), make_record(), make_record(status="failed", error="why")
    publish(store, ok)
    publish(store, failed)
    store.discard(store.workspace(ok.run_id))
    assert store.load_all() == [ok]
    assert store.outcome(ok.run_id, since=0) == failed


def test_a_cell_that_another_process_works_on_is_left_to_it(tmp_path):
    store = Store(tmp_path)
    work = store.workspace("a")
    with pytest.raises(BusyError, match="a: process .* on this machine is working on it"):
        store.workspace("a")
    work.claim.release()
    store.workspace("a")


def test_a_cell_that_was_given_up_for_dead_and_taken_over_is_not_written_twice(tmp_path, make_record):
    store, record = Store(tmp_path), make_record()
    lost = store.workspace(record.run_id)
    (lost.path / "claim.json").unlink()  # as whoever takes it over does
    taken = store.workspace(record.run_id)
    with pytest.raises(BusyError, match="another process is working on it"):
        store.publish(record, lost)
    store.publish(record, taken)
    assert store.load_all() == [record]


def test_a_discarded_workspace_leaves_no_folders_of_its_own(tmp_path, make_record):
    (tmp_path / "mine").mkdir()
    store = Store(tmp_path / "mine/new/results")
    store.discard(store.workspace("a"))
    assert files(tmp_path) == ["mine"]  # which was there before
    publish(store, make_record())
    store.discard(store.workspace("a"))
    assert len(store.load_all()) == 1


@pytest.mark.parametrize("run_id", ["../up", "a/b", "", ".hidden", "a b", "-x"])
def test_run_ids_cannot_leave_the_folder(tmp_path, run_id):
    with pytest.raises(ValueError, match="run id"):
        Store(tmp_path).path(run_id)


def test_a_torn_record_is_skipped_with_its_name(tmp_path, make_record):
    store = Store(tmp_path)
    publish(store, make_record("lenet"))
    torn = publish(store, make_record("nin")) / "record.json"
    torn.write_text(torn.read_text()[:100])
    with pytest.warns(UserWarning, match="nin.*skipped"):
        assert [record.model for record in store.load_all()] == ["lenet"]
    with pytest.warns(UserWarning, match="nin.*skipped"):
        assert store.ok(make_record("nin").run_id) is None


def test_a_record_in_another_folder_than_its_runs_is_skipped_with_its_name(tmp_path, make_record):
    store = Store(tmp_path)
    publish(store, make_record("lenet"))
    publish(store, make_record("nin")).rename(tmp_path / "runs/best-nin")
    with pytest.warns(UserWarning, match="best-nin: skipped, its record is of digits-nin-s0-0123456789"):
        assert [record.model for record in store.load_all()] == ["lenet"]


def test_what_is_no_record_is_named_or_left_alone(tmp_path, make_record):
    store = Store(tmp_path)
    publish(store, make_record("lenet"))
    (tmp_path / "runs/notes.txt").touch()
    (tmp_path / "runs/.my notes.replaced").mkdir()
    (tmp_path / "runs/.kept.old").mkdir()
    (tmp_path / "runs/odd/record.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match="odd/record.json: skipped, Is a directory"):
        assert [record.model for record in store.load_all()] == ["lenet"]
    assert (tmp_path / "runs/.my notes.replaced").is_dir()
    assert (tmp_path / "runs/.kept.old").is_dir()


def test_a_missing_record_is_none(tmp_path):
    assert Store(tmp_path).ok("digits-lenet-s0-0123456789") is None


def test_a_home_that_is_nobodys_is_named():
    with pytest.raises(ConfigError, match="^paths.results=~nobody-here/x: no such user's home$"):
        Store("~nobody-here/x")


def test_reading_records_and_reporting_needs_no_torch_lightning_or_hydra(tmp_path, make_record):
    publish(Store(tmp_path), make_record())
    program = f"""
import sys
import time
from bench import report
from bench.errors import ConfigError
from bench.store import Store
store = Store({str(tmp_path)!r})
assert len(store.load_all()) == 1
report.build(store)
heavy = sorted({{"torch", "lightning", "hydra", "omegaconf", "sklearn"}} & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "lenet" in done.stdout
