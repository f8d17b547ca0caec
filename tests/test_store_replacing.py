"""Records that take the place of others, and what cannot be read, which is put aside."""

import errno
from pathlib import Path

import pytest
from common import files, publish

from bench.files import write_atomically
from bench.store import Store


def test_what_belongs_to_a_record_of_another_version_is_put_aside_and_not_lost(tmp_path, make_record):
    store, record = Store(tmp_path), make_record()
    folder = publish(store, record)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/selected.ckpt").write_bytes(b"weights")
    text = record.to_json().replace('"schema_version": 2', '"schema_version": 3')
    (folder / "record.json").write_text(text)
    with pytest.warns(UserWarning, match="schema_version=3|moved to"):
        work = store.workspace(record.run_id)
    assert files(work.path) == ["claim.json"]
    (aside,) = tmp_path.glob(f"runs/.{record.run_id}.unreadable-*")
    assert files(aside) == ["checkpoints", "checkpoints/selected.ckpt", "metrics.csv", "record.json"]
    assert (aside / "record.json").read_text() == text
    assert store.load_all() == []
    work.claim.release()


def test_what_is_put_aside_when_the_process_is_killed_is_put_aside_by_the_next(tmp_path, make_record, monkeypatch):
    store, record = Store(tmp_path), make_record()
    folder = publish(store, record)
    for i in range(5):
        (folder / f"part{i}").write_text("")
    (folder / "record.json").write_text("torn")
    rename, renamed = Path.rename, []

    def cut_off(self, target):
        if len(renamed) == 3:
            raise KeyboardInterrupt
        renamed.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut_off)
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(KeyboardInterrupt):
        store.workspace(record.run_id)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="skipped|moved to"):
        store.workspace(record.run_id)
    kept = [file.name for file in tmp_path.glob(f"runs/.{record.run_id}.unreadable-*/*")]
    assert sorted(kept) == ["metrics.csv", *(f"part{i}" for i in range(5)), "record.json"]


@pytest.mark.parametrize("moment", ["old put aside", "new put in place"])
def test_a_replacement_that_was_cut_off_is_finished(tmp_path, make_record, moment):
    store, old = Store(tmp_path), make_record(test=0.8)
    publish(store, old)
    work = store.workspace(old.run_id)
    write_atomically(work.path / "record.json", make_record(test=0.9).to_json())
    store.path(old.run_id).rename(tmp_path / f"runs/.{old.run_id}.replaced")
    if moment == "new put in place":
        work.path.rename(store.path(old.run_id))
    assert [record.metrics["test"]["top1"] for record in store.load_all()] == [0.9]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [old.run_id]


def test_an_old_record_stays_while_none_can_take_its_place(tmp_path, make_record, monkeypatch):
    store, old = Store(tmp_path), make_record()
    publish(store, old)
    store.path(old.run_id).rename(aside := tmp_path / f"runs/.{old.run_id}.replaced")

    def rename(path, target):
        raise OSError(errno.EIO, "the file server does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", rename)
        assert store.ok(old.run_id) is None
        store.workspace(old.run_id).claim.release()
        assert store.ok(old.run_id) is None
    assert (aside / "record.json").exists()
