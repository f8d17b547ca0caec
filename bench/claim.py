"""Claims: which process works on a cell, told by a file that any machine which sees the folder can read.

A claim is made by an atomic create and kept alive by a heartbeat, the file's time of change. Of two who want a cell
one gets it; the claim of a process that has died is taken over, at once on the same machine, else when it has not
been heard of for ``EXPIRY`` seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

CLAIM = "claim.json"
PROBE = f".{CLAIM}."
"""What the names of files begin with that others may make and remove in a claimed folder at any moment."""
BEAT, EXPIRY = 10.0, 60.0
"""Seconds between two heartbeats, and without one until a claim counts as dead."""


class ClaimedError(Exception):
    """Another process holds the claim; the text is a line that names it."""


@dataclass(frozen=True)
class Owner:
    """A process: ``machine`` tells hosts of one name apart, containers, and what was before a restart; ``born`` tells
    it from a later process of the same number; ``id`` is the claim's own.
    """

    pid: int
    host: str
    machine: str
    born: str
    id: str


def this_process() -> Owner:
    """The owner of a new claim."""
    return Owner(os.getpid(), socket.gethostname(), _machine(), _born(os.getpid()) or "", uuid.uuid4().hex)


def _machine() -> str:
    """What processes have in common that see each other's numbers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return socket.gethostname()


def _born(pid: int) -> str | None:
    """When a process began, by a clock that nobody sets; None where there is none, or only what is left of it."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # a zombie; starttime in ticks, proc(5)
    except (FileNotFoundError, ProcessLookupError):
        return None if sys.platform == "linux" or not psutil.pid_exists(pid) else "?"


class Claim:
    """A claim that this process holds on a folder."""

    def __init__(self, file: Path, owner: Owner):
        self.file, self.owner = file, owner
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, folder: Path) -> Claim:
        """Claim the folder, which must exist.

        Raises:
            ClaimedError: another process, which is alive, has it.
        """
        file = folder / CLAIM
        owner = this_process()
        with _alone(folder):
            if (there := _text(file)) is not None:
                if holder := _alive(file, there):
                    raise ClaimedError(holder)
                file.unlink(missing_ok=True)
            if not _create(file, owner):
                raise ClaimedError(f"{folder.name}: another process has just begun to work on it")
        return cls(file, owner)

    def held(self) -> bool:
        """Whether it is still ours: a machine that slept, or lost the folder for long, may have been given up."""
        return (owner := _parse(_text(self.file))) is not None and owner.id == self.owner.id

    def release(self) -> None:
        """Give the folder back."""
        self._released.set()
        self._thread.join()
        if self.held():
            self.file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # a file server that is away for a moment
                if self.held():
                    os.utime(self.file)


def holder(folder: Path) -> str | None:
    """A line about the process that works on a folder; None where no living one does."""
    file = folder / CLAIM
    text = _text(file)
    return None if text is None else _alive(file, text)


def _create(file: Path, owner: Owner) -> bool:
    """Whether the claim was ours to make; it appears with its content, by a hard link."""
    draft = file.with_name(f"{PROBE}{owner.id}")
    try:
        draft.write_text(json.dumps(asdict(owner)) + "\n")
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others out while a dead claim makes room for a new one. Where a folder cannot be locked, as with some file
    servers, the atomic create is all there is.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _alive(file: Path, text: str) -> str | None:
    """A line about the claim's owner, None if it is dead."""
    owner = _parse(text)
    if owner is None:  # written by nobody who is still there: claims appear with their content
        return None
    if owner.machine == _machine():
        alive = _born(owner.pid) == owner.born
        return f"{file.parent.name}: process {owner.pid} of this machine works on it" if alive else None
    try:
        heard = file.stat().st_mtime
    except FileNotFoundError:
        return None
    silent = now(file.parent) - heard
    if silent > EXPIRY:
        return None
    return f"{file.parent.name}: process {owner.pid} on {owner.host} works on it, heard of {max(0, silent):.0f} s ago"


def now(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, which on a network is not ours; by ours where no file can
    be made, in a folder that may only be read or is just being removed.
    """
    probe = folder / f"{PROBE}{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _text(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _parse(text: str | None) -> Owner | None:
    try:
        values: Any = json.loads(text or "")
        owner = Owner(int(values["pid"]), *(str(values[key]) for key in ("host", "machine", "born", "id")))
    except (ValueError, KeyError, TypeError):
        return None
    return owner
