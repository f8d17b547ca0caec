"""Records on disk: ``<results>/runs/<run_id>/``, each written once.

A cell works in its directory, where every file is written atomically; ``record.json`` comes last, so a directory
without one is a cell that is running or was cut off. A cut off or failed cell resumes from ``checkpoints/last.ckpt``.
A rerun of a cell that has an ok record works in ``.<run_id>.again`` and replaces it only when it is ok itself: an ok
record is never lost.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

from bench.claim import CLAIM, PROBE, Claim, ClaimedError, Owner, holder, owner_of
from bench.files import expanded, write_atomically
from bench.record import RUN_ID, RunRecord

DEFAULT_RESULTS = "results/local"
ASIDE = ".replaced"
"""Ends the name of a folder whose ok record is being replaced by a new one."""
RECORD, ERROR, LAST = "record.json", "error.txt", "checkpoints/last.ckpt"
BEFORE = ".before"
"""The folder where an attempt keeps what it does not go on from of the one before, until it publishes its record."""


class StoreError(Exception):
    """The cell cannot be run now; the message is one line."""


class DoneError(StoreError):
    """It has an ok record."""


class BusyError(StoreError):
    """Another process is working on it."""


class LostError(BusyError):
    """Another process has taken the cell over from this one."""

    def __init__(self, run_id: str):
        super().__init__(f"{run_id}: presumed dead meanwhile; another process is working on it")


def check_ours(run_id: str, folder: Path, owner: Owner) -> None:
    """Raise LostError unless the cell's directory is still claimed by this process, or the one that started it."""
    if owner_of(folder) != owner:
        raise LostError(run_id)


@dataclass(frozen=True)
class Workspace:
    """The directory of a running cell, and this process's claim on it."""

    path: Path
    claim: Claim
    made: tuple[Path, ...] = ()
    """The parent folders created for it, innermost first."""

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint an earlier attempt left to resume from."""
        file = self.path / LAST
        return file if file.exists() else None


class Store:
    """The cells under one results folder."""

    def __init__(self, root: Path | str):
        self.root = expanded(root)

    def path(self, run_id: str) -> Path:
        """A cell's directory.

        Raises:
            ValueError: ``run_id`` is not valid and could lead out of the folder.
        """
        if not RUN_ID.fullmatch(run_id):
            raise ValueError(f"run id {run_id!r}: must be letters, digits and . _ -, starting with a letter or digit")
        return self.root / "runs" / run_id

    def _again(self, run_id: str) -> Path:
        return self.path(run_id).with_name(f".{run_id}.again")

    def ok(self, run_id: str, since: float = 0.0) -> RunRecord | None:
        """The cell's record if it can be read (else with a warning), is ok, and is not older than ``since`` (seconds
        since the epoch).
        """
        self._finish_replacement(run_id)
        record = _read(self.path(run_id) / RECORD, since)
        return record if record is not None and record.status == "ok" else None

    def outcome(self, run_id: str, since: float, force: bool = False) -> RunRecord | None:
        """The record of the cell's last attempt if it ended after ``since`` (seconds since the epoch), or else, without
        ``force``, an earlier ok record.
        """
        tries = (_read(folder / RECORD, since) for folder in self.places(run_id))
        last = next((record for record in tries if record is not None), None)
        return last if last is not None or force else self.ok(run_id)

    def load_all(self) -> list[RunRecord]:
        """All records, by run id; warns about each that cannot be read, or is in another folder than its run's."""
        for aside in self.root.glob(f"runs/.*{ASIDE}"):
            if RUN_ID.fullmatch(name := aside.name.removeprefix(".").removesuffix(ASIDE)):
                self._finish_replacement(name)
        records = []
        for folder in sorted(self.root.glob("runs/[!.]*")):
            try:
                record = _read(folder / RECORD)
            except OSError as error:
                warnings.warn(f"{error.filename}: skipped, {error.strerror}", stacklevel=2)
                continue
            if record is None:
                continue
            if record.run_id == folder.name:
                records.append(record)
            else:  # its predictions and curves would be looked for in a folder of its name
                warnings.warn(f"{folder}: skipped, its record is of {record.run_id}", stacklevel=2)
        return records

    def holder(self, run_id: str) -> str | None:
        """A line about the live process working on the cell, None if there is none."""
        return next((line for line in map(holder, self.places(run_id)) if line is not None), None)

    def places(self, run_id: str) -> tuple[Path, Path]:
        """Where a process may work on the cell: beside an ok record, or in its own directory."""
        return self._again(run_id), self.path(run_id)

    def workspace(self, run_id: str, since: float = 0.0) -> Workspace:
        """The directory for an attempt at the cell, claimed by this process, which must publish, discard or release it.

        It contains what an earlier attempt left to resume from, if its checkpoint was written after ``since`` (seconds
        since the epoch). All else, such as how that attempt ended, is kept aside for :meth:`discard`.

        Raises:
            BusyError: another process is working on the cell, or has just finished it.
        """
        path = self._again(run_id) if self.ok(run_id) else self.path(run_id)
        made = tuple(folder for folder in path.parents if not folder.exists())
        path.mkdir(parents=True, exist_ok=True)
        try:
            work = Workspace(path, Claim.take(path), made)
        except ClaimedError as error:
            raise BusyError(str(error)) from error
        try:
            shutil.rmtree(path / BEFORE, ignore_errors=True)  # of an attempt that was cut off since
            if path == self.path(run_id) and self.ok(run_id):  # published after we looked, before we had the claim
                raise BusyError(f"{run_id}: another process has just finished it")
            # a record perhaps of another version of this project; while it is there, so may be what belongs to it
            if (path / RECORD).exists() and _read(path / RECORD) is None:
                self._put_aside(path)
            for part in path.rglob(".*.part"):  # left by a process that was killed while writing
                part.unlink()
            before = {entry for entry in path.iterdir() if entry.name != CLAIM and not entry.name.startswith(PROBE)}
            if work.checkpoint is not None and work.checkpoint.stat().st_mtime >= since:
                before &= {path / RECORD, path / ERROR}
            if before:
                (path / BEFORE).mkdir()
            for entry in before:
                entry.rename(path / BEFORE / entry.name)
        except BaseException:
            _bring_back(path)
            work.claim.release()
            raise
        return work

    def _put_aside(self, path: Path) -> None:
        """Move what belongs to a record that cannot be read to a new folder ``.<run_id>.unreadable-…``."""
        aside = path.with_name(f".{path.name.removeprefix('.')}.unreadable-{uuid.uuid4().hex[:8]}")
        aside.mkdir()
        for entry in [*(set(path.iterdir()) - {path / CLAIM, path / RECORD}), path / RECORD]:  # last: see above
            if not entry.name.startswith(PROBE):
                entry.rename(aside / entry.name)
        warnings.warn(f"{path}: moved to {aside.name}", stacklevel=4)

    def discard(self, work: Workspace) -> None:
        """Give up an attempt that did nothing: all is as it was before. If there was nothing, the directory is removed,
        and the parent folders created for it.
        """
        if work.claim.held() and not _bring_back(work.path) and work.checkpoint is None:
            # including the claim, so that nobody else starts here meanwhile; others may be reading it right now
            shutil.rmtree(work.path, ignore_errors=True)
        work.claim.release()
        for folder in work.made:
            with contextlib.suppress(OSError):  # already gone, or used by others
                folder.rmdir()

    def publish(self, record: RunRecord, work: Workspace) -> Path:
        """Write ``record.json`` into the workspace, which ends the attempt; returns the directory that contains it.

        An ok record replaces an earlier ok one; one that is not ok stays beside it.

        Raises:
            BusyError: the claim was lost to another process, which is now working on the cell.
        """
        check_ours(record.run_id, work.path, work.claim.owner)
        write_atomically(work.path / RECORD, record.to_json())
        shutil.rmtree(work.path / BEFORE, ignore_errors=True)
        if record.status == "ok":
            (work.path / LAST).unlink(missing_ok=True)
        target = self.path(record.run_id)
        if work.path == target or record.status != "ok":
            work.claim.release()
            return work.path
        with contextlib.suppress(FileNotFoundError):  # a reader may have completed this for us
            target.rename(self._aside(record.run_id))
            work.path.rename(target)
        work.claim.file = target / CLAIM
        work.claim.release()
        self._finish_replacement(record.run_id)
        return target

    def _aside(self, run_id: str) -> Path:
        return self.path(run_id).with_name(f".{run_id}{ASIDE}")

    def _finish_replacement(self, run_id: str) -> None:
        """Complete an interrupted replacement of an old ok record by a new one."""
        target, aside = self.path(run_id), self._aside(run_id)
        if not aside.exists():
            return
        with contextlib.suppress(OSError):  # another process is doing the same
            if not target.exists():
                again = self._again(run_id)
                (again if (again / RECORD).exists() else aside).rename(target)
        if (target / RECORD).exists():
            shutil.rmtree(aside, ignore_errors=True)


def _bring_back(path: Path) -> bool:
    """Put what an attempt has set aside where it was; returns whether there was anything."""
    if not (path / BEFORE).is_dir():
        return False
    for entry in (path / BEFORE).iterdir():
        there = path / entry.name
        if there.is_dir():
            shutil.rmtree(there)
        entry.replace(there)
    (path / BEFORE).rmdir()
    return True


def _read(file: Path, since: float = 0.0) -> RunRecord | None:
    try:
        return None if file.stat().st_mtime < since else RunRecord.from_json(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        warnings.warn(f"{file}: skipped, {error}", stacklevel=3)
        return None
