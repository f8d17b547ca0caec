"""Records on disk: ``<results>/runs/<run_id>/``, each written once.

A cell works in its directory, where every file appears whole; ``record.json`` is the last, so that a directory without
one is a cell under way or cut off. A cut off or failed cell goes on from ``checkpoints/last.ckpt``. A cell that is run
again beside an ok record works in ``.<run_id>.again`` and takes the place of the old one only when it is ok itself: an
ok record is never lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bench.claim import CLAIM, PROBE, Claim, ClaimedError, holder
from bench.record import RUN_ID, RunRecord

DEFAULT_RESULTS = "results/local"
RECORD, ERROR, LAST = "record.json", "error.txt", "checkpoints/last.ckpt"


class StoreError(Exception):
    """The results folder does not allow what is asked; its text is one line."""


class BusyError(StoreError):
    """Another process works on the cell."""


@dataclass(frozen=True)
class Workspace:
    """The directory of a cell under way, and this process's claim on it."""

    path: Path
    claim: Claim
    made: tuple[Path, ...] = ()
    """The folders above that were not there before it, the innermost first."""

    @property
    def checkpoint(self) -> Path | None:
        """Where an earlier try can be gone on from."""
        file = self.path / LAST
        return file if file.exists() else None


def write_atomically(path: Path, data: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename; ``data`` may write into the open file itself."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def seen(path: Path) -> bool:
    """Whether the path is there for us: Path.exists raises where a folder above may not be entered."""
    return os.path.exists(path)  # noqa: PTH110


def check_writable(folder: Path, setting: str = "paths.results") -> None:
    """Raise StoreError if files cannot be made in the folder, or the folder itself, without making anything.

    ``setting`` is what names the folder.
    """
    ancestor = next(path for path in (folder, *folder.absolute().parents) if seen(path))
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

    def ok(self, run_id: str, since: float = 0.0) -> RunRecord | None:
        """The cell's record if it is there, ok, and not from before ``since`` (seconds since the epoch)."""
        self._finish_replacement(run_id)
        record = _read(self.path(run_id) / RECORD, since)
        return record if record is not None and record.status == "ok" else None

    def outcome(self, run_id: str, since: float, force: bool = False) -> RunRecord | None:
        """What became of the cell's last try, if it ended after ``since`` (seconds since the epoch), or else, of a cell
        that is not run by ``force``, an ok record from before.
        """
        tries = (_read(folder / RECORD, since) for folder in self.places(run_id))
        last = next((record for record in tries if record is not None), None)
        return last if last is not None or force else self.ok(run_id)

    def load_all(self) -> list[RunRecord]:
        """All records, by run id; a warning names each that cannot be read."""
        for aside in self.root.glob("runs/.*.old"):
            self._finish_replacement(aside.name.removeprefix(".").removesuffix(".old"))
        records = (_read(file) for file in sorted(self.root.glob(f"runs/[!.]*/{RECORD}")))
        return [record for record in records if record is not None]

    def holder(self, run_id: str) -> str | None:
        """A line about the living process that works on the cell, None where there is none."""
        return next((line for line in map(holder, self.places(run_id)) if line is not None), None)

    def places(self, run_id: str) -> tuple[Path, Path]:
        """Where the cell may be worked on: beside an ok record, and its own directory."""
        return self._again(run_id), self.path(run_id)

    def workspace(self, run_id: str, since: float = 0.0) -> Workspace:
        """The directory for a try at the cell, claimed by this process, which is to publish, discard or release it.

        It is empty, or holds what an earlier try left that can be gone on from, if its checkpoint was made after
        ``since`` (seconds since the epoch).

        Raises:
            BusyError: another process works on the cell, or has just finished it.
        """
        path = self._again(run_id) if self.ok(run_id) else self.path(run_id)
        made = tuple(folder for folder in path.parents if not folder.exists())
        path.mkdir(parents=True, exist_ok=True)
        try:
            work = Workspace(path, Claim.take(path), made)
        except ClaimedError as error:
            raise BusyError(str(error)) from error
        try:
            if path == self.path(run_id) and self.ok(run_id):  # published after we looked, before we had the claim
                raise BusyError(f"{run_id}: another process has just finished it")
            kept = {path / CLAIM}
            if work.checkpoint is not None and work.checkpoint.stat().st_mtime >= since:
                kept |= set(path.iterdir()) - {path / RECORD, path / ERROR}
            for part in path.rglob(".*.part"):  # of a process that was killed while it wrote
                part.unlink()
            for entry in set(path.iterdir()) - kept:
                if not entry.name.startswith(PROBE):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        except BaseException:
            work.claim.release()
            raise
        return work

    def discard(self, work: Workspace) -> None:
        """Give up a try that did nothing: remove its directory, unless an earlier try can be gone on from, and the
        folders that were made for it alone.
        """
        if work.checkpoint is None:
            # and the claim, so that nobody else begins here meanwhile; some may just be looking at it
            shutil.rmtree(work.path, ignore_errors=True)
        work.claim.release()
        for folder in work.made:
            with contextlib.suppress(OSError):  # is gone, or holds what others have put there
                folder.rmdir()

    def publish(self, record: RunRecord, work: Workspace) -> Path:
        """Write ``record.json`` into the workspace, which ends the try; returns the directory that holds it.

        An ok record takes the place of an ok one before it; one that is not ok stays beside it.

        Raises:
            BusyError: the claim was lost to another process, which now works on the cell.
        """
        if not work.claim.held():
            raise BusyError(f"{record.run_id}: given up for dead meanwhile, another process works on it")
        write_atomically(work.path / RECORD, record.to_json())
        if record.status == "ok":
            (work.path / LAST).unlink(missing_ok=True)
        target = self.path(record.run_id)
        if work.path == target or record.status != "ok":
            work.claim.release()
            return work.path
        with contextlib.suppress(FileNotFoundError):  # a reader may have finished it for us
            target.rename(self._aside(record.run_id))
            work.path.rename(target)
        work.claim.file = target / CLAIM
        work.claim.release()
        self._finish_replacement(record.run_id)
        return target

    def _aside(self, run_id: str) -> Path:
        return self.path(run_id).with_name(f".{run_id}.old")

    def _finish_replacement(self, run_id: str) -> None:
        """Do what is left where a new ok record was put in the place of the old one, and cut off in between."""
        target, aside = self.path(run_id), self._aside(run_id)
        if not aside.exists():
            return
        with contextlib.suppress(OSError):  # another process does the same
            if not target.exists():
                again = self._again(run_id)
                (again if (again / RECORD).exists() else aside).rename(target)
        shutil.rmtree(aside, ignore_errors=True)


def _read(file: Path, since: float = 0.0) -> RunRecord | None:
    try:
        return None if file.stat().st_mtime < since else RunRecord.from_json(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{file}: left out, {error}", stacklevel=3)
        return None
