"""Files: written completely or not at all."""

import pytest

from bench.files import write_atomically


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


def test_what_cannot_be_written_is_named_by_its_own_name(tmp_path):
    (tmp_path / "file").touch()
    for file in (tmp_path / "file/x.md", tmp_path / ("x" * 300)):  # not in a folder; a name that is too long
        with pytest.raises(OSError, match="x") as caught:
            write_atomically(file, "new")
        assert caught.value.filename == str(file)
