import subprocess
import sys
import time

import pytest

from bench.store import Store, write_atomically


def publish(store, record, **kwargs):
    (store.workspace(record.run_id) / "metrics.csv").write_text("epoch\n1\n")
    return store.publish(record, **kwargs)


def test_a_published_record_is_loaded_again(tmp_path, make_record):
    store, record = Store(tmp_path), make_record()
    folder = publish(store, record)
    assert folder == tmp_path / "runs" / record.run_id
    assert sorted(file.name for file in folder.iterdir()) == ["metrics.csv", "record.json"]
    assert store.load(record.run_id) == record
    assert store.load_all() == [record]


def test_nothing_of_a_cell_is_seen_before_it_is_published(tmp_path, make_record):
    store = Store(tmp_path)
    (store.workspace("digits-lenet-s0-0123456789") / "metrics.csv").write_text("half")
    assert store.load_all() == []
    assert not (tmp_path / "runs").exists()


def test_an_ok_record_is_written_once(tmp_path, make_record):
    store, record = Store(tmp_path), make_record(test=0.8)
    publish(store, record)
    with pytest.raises(FileExistsError, match=record.run_id):
        publish(store, make_record(test=0.9))
    assert store.load(record.run_id) == record


def test_force_replaces_an_ok_record_and_leaves_nothing_behind(tmp_path, make_record):
    store = Store(tmp_path)
    publish(store, make_record(test=0.8))
    publish(store, make_record(test=0.9), force=True)
    assert [record.metrics["test"]["top1"] for record in store.load_all()] == [0.9]
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_record_that_is_not_ok_is_replaced(tmp_path, make_record, status):
    store = Store(tmp_path)
    publish(store, make_record(status=status, error="why"))
    publish(store, make_record())
    assert [record.status for record in store.load_all()] == ["ok"]


def test_a_forced_try_that_fails_leaves_the_ok_record_and_is_still_told_of(tmp_path, make_record):
    store = Store(tmp_path)
    publish(store, make_record())
    failed = make_record(status="failed", error="why")
    publish(store, failed, force=True)
    assert [record.status for record in store.load_all()] == ["ok"]
    assert store.outcome(failed.run_id) == failed


def test_the_outcome_is_an_ok_record_or_one_of_the_time_in_question(tmp_path, make_record):
    store, now = Store(tmp_path), time.time()
    ok, failed = make_record("lenet"), make_record("nin", status="failed", error="why")
    publish(store, ok)
    publish(store, failed)
    assert store.outcome(ok.run_id, since=now + 60) == ok
    assert store.outcome(failed.run_id, since=now - 60) == failed
    assert store.outcome(failed.run_id, since=now + 60) is None
    assert store.outcome("digits-vgg16-s0-0123456789") is None


def test_a_workspace_starts_empty(tmp_path):
    store = Store(tmp_path)
    (store.workspace("a") / "left.txt").write_text("by a crash")
    assert list(store.workspace("a").iterdir()) == []


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


def test_a_missing_record_is_none(tmp_path):
    assert Store(tmp_path).load("digits-lenet-s0-0123456789") is None


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_reading_records_and_reporting_needs_no_torch_lightning_or_hydra(tmp_path, make_record):
    publish(Store(tmp_path), make_record())
    program = f"""
import sys
import time
from bench import report
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
