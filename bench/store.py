"""Records on disk: ``<results>/runs/<run_id>/``, written whole and once.

A cell works in ``<results>/work/<run_id>/`` and is published by renaming that directory, its ``record.json``
inside, so that ``runs/`` never holds half a cell.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from pathlib import Path

from bench.record import RunRecord

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Store:
    """The cells under one results folder."""

    def __init__(self, root: Path | str):
        self.root = Path(root).expanduser()

    def _path(self, kind: str, run_id: str) -> Path:
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"run id {run_id!r}: only letters, digits and . _ - are allowed, the first not . _ -")
        return self.root / kind / run_id

    def path(self, run_id: str) -> Path:
        """Directory of a published cell."""
        return self._path("runs", run_id)

    def load(self, run_id: str) -> RunRecord | None:
        """The published record; None where there is none.

        Raises:
            ValueError: there is one that cannot be read.
        """
        try:
            return RunRecord.from_json((self.path(run_id) / "record.json").read_text())
        except FileNotFoundError:
            return None

    def outcome(self, run_id: str, since: float = 0.0) -> RunRecord | None:
        """What became of the cell's last try that ended after ``since`` (seconds since the epoch), or an ok record."""
        for kind in ("work", "runs"):
            file = self._path(kind, run_id) / "record.json"
            if file.exists():
                record = RunRecord.from_json(file.read_text())
                if record.status == "ok" or file.stat().st_mtime >= since:
                    return record
        return None

    def load_all(self) -> list[RunRecord]:
        """All readable records, by run id; an unreadable one is skipped with a warning that names it."""
        records = []
        for file in sorted(self.root.glob("runs/[!.]*/record.json")):
            try:
                records.append(RunRecord.from_json(file.read_text()))
            except ValueError as error:
                warnings.warn(f"{file}: skipped, {error}", stacklevel=2)
        return records

    def workspace(self, run_id: str) -> Path:
        """An empty directory to work in until ``publish``."""
        work = self._path("work", run_id)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return work

    def publish(self, record: RunRecord, force: bool = False) -> Path:
        """Add ``record.json`` to the cell's workspace and rename it into place; returns the cell's directory.

        A published cell that is not ok is replaced; one that is ok only by another that is, and with ``force``. What
        did not end well beside an ok record stays in its workspace, where ``outcome`` finds it.

        Raises:
            FileExistsError: an ok record is there and ``force`` is not set; the workspace is left as it is.
        """
        target, work = self.path(record.run_id), self._path("work", record.run_id)
        old = self.load(record.run_id)
        if old is not None and old.status == "ok" and not force:
            raise FileExistsError(f"{target}: already holds an ok record")
        write_atomically(work / "record.json", record.to_json())
        if old is not None and old.status == "ok" and record.status != "ok":
            return work
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            work.rename(target)
            return target
        aside = target.with_name(f".{target.name}.{os.getpid()}.old")
        target.rename(aside)
        work.rename(target)
        shutil.rmtree(aside)
        return target
