"""Records on disk: ``<results>/runs/<run_id>/``, each written once.

A cell works in its directory, where every file appears whole; ``record.json`` is the last, so that a directory without
one is a cell under way or cut off. A cell that is run again beside an ok record works in ``.<run_id>.again`` and takes
the place of the old one only when it is ok itself: an ok record is never lost.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
import warnings
from pathlib import Path

from bench.record import RUN_ID, RunRecord

RECORD, CLAIM = "record.json", "claim.json"


class StoreError(Exception):
    """The results folder does not allow what is asked; its text is one line."""


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: Path, setting: str = "paths.results") -> None:
    """Raise StoreError if files cannot be made in the folder, or the folder itself, without making anything.

    ``setting`` is what names the folder.
    """
    ancestor = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    effective = os.access in os.supports_effective_ids
    if not ancestor.is_dir():
        raise StoreError(f"{setting}={folder}: {ancestor} is not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK, effective_ids=effective):
        raise StoreError(f"{setting}={folder}: {ancestor} is not writable")


class Store:
    """The cells under one results folder."""

    def __init__(self, root: Path | str):
        self.root = Path(root).expanduser()

    def path(self, run_id: str) -> Path:
        """A cell's directory.

        Raises:
            ValueError: ``run_id`` is not one, and could lead out of the folder.
        """
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"run id {run_id!r}: only letters, digits and . _ - are allowed, the first not . _ -")
        return self.root / "runs" / run_id

    def _again(self, run_id: str) -> Path:
        return self.path(run_id).with_name(f".{run_id}.again")

    def load(self, run_id: str) -> RunRecord | None:
        """The cell's record; None where there is none, or none that can be read (a warning names that)."""
        return _read(self.path(run_id) / RECORD)

    def ok(self, run_id: str) -> RunRecord | None:
        """The cell's record if it is there and ok."""
        record = self.load(run_id)
        return record if record is not None and record.status == "ok" else None

    def outcome(self, run_id: str, since: float) -> RunRecord | None:
        """What became of the cell's last try, if it ended after ``since`` (seconds since the epoch), or an ok one."""
        for folder in (self._again(run_id), self.path(run_id)):
            file = folder / RECORD
            if (record := _read(file)) is not None and (record.status == "ok" or file.stat().st_mtime >= since):
                return record
        return None

    def load_all(self) -> list[RunRecord]:
        """All records, by run id; a warning names each that cannot be read."""
        records = (_read(file) for file in sorted(self.root.glob(f"runs/[!.]*/{RECORD}")))
        return [record for record in records if record is not None]

    def workspace(self, run_id: str) -> Path:
        """An empty directory for a new try at the cell, claimed by this process.

        Raises:
            StoreError: another process works on the cell.
        """
        work = self._again(run_id) if self.ok(run_id) else self.path(run_id)
        _check_unclaimed(work)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        claim = {"pid": os.getpid(), "host": socket.gethostname()}
        with (work / CLAIM).open("x") as file:  # of two who come this far at once, one fails
            file.write(json.dumps(claim) + "\n")
        return work

    def discard(self, work: Path) -> None:
        """Remove a workspace, and the folders that were made for it alone."""
        shutil.rmtree(work)
        for folder in (work.parent, self.root):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def publish(self, record: RunRecord, work: Path) -> Path:
        """Write ``record.json`` into the workspace, which ends the try; returns the directory that holds it.

        An ok record takes the place of an ok one before it; one that is not ok stays beside it.
        """
        (work / CLAIM).unlink(missing_ok=True)
        write_atomically(work / RECORD, record.to_json())
        target = self.path(record.run_id)
        if work == target or record.status != "ok":
            return work
        aside = target.with_name(f".{record.run_id}.old")
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
        work.rename(target)
        shutil.rmtree(aside)
        return target


def _read(file: Path) -> RunRecord | None:
    try:
        return RunRecord.from_json(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{file}: left out, {error}", stacklevel=3)
        return None


def _check_unclaimed(work: Path) -> None:
    try:
        claim = json.loads((work / CLAIM).read_text())
        pid, host = int(claim["pid"]), claim["host"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
    if host == socket.gethostname() and not _alive(pid):
        return
    if (pid, host) != (os.getpid(), socket.gethostname()):
        raise StoreError(f"{work.name}: process {pid} on {host} works on it; if it does not, remove {work / CLAIM}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
