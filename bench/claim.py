"""Claims: which process is working on a cell, recorded in a file that any machine with access to the folder can read.

A claim is made by an atomic create and kept alive by a heartbeat, the file's modification time. If two processes want a
cell, one gets it; the claim of a dead process is taken over, immediately on the same machine, otherwise after
``EXPIRY`` seconds without a heartbeat.
"""

from __future__ import annotations

import contextlib
import errno
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
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What link(2) answers where there are no hard links."""
PROBE = f".{CLAIM}."
"""Prefix of files that other processes may create and remove in a claimed folder at any time."""
HIDDEN = "?"
"""The birth of a process that the system does not tell about."""
BEAT, EXPIRY = 10.0, 60.0
"""Seconds between heartbeats, and seconds without one after which a claim counts as dead."""


class ClaimedError(Exception):
    """Another process holds the claim; the message is one line that names it."""


@dataclass(frozen=True)
class Owner:
    """A process: ``machine`` distinguishes hosts with the same name, containers and reboots; ``born`` distinguishes it
    from a later process with the same pid; ``id`` is unique to the claim.
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
    """An id shared by all processes that see each other's pids."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return socket.gethostname()


def _born(pid: int) -> str | None:
    """When a process started, on Linux by a clock that cannot be set; None if there is no such process, or only a
    zombie; HIDDEN if the system does not tell.
    """
    try:
        os.kill(pid, 0)  # asks whether there is one
    except ProcessLookupError:
        return None
    except PermissionError:  # there is, of another user, whose processes /proc may hide
        pass
    try:
        if sys.platform == "linux":
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if state in "ZX" else fields[18]  # a zombie; starttime in ticks, proc(5)
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
    except (OSError, psutil.AccessDenied):
        return HIDDEN


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
            ClaimedError: another live process holds it.
        """
        file = folder / CLAIM
        owner = this_process()
        with _alone(folder):
            if (there := _text(file)) is not None:
                if holder := _alive(file, there):
                    raise ClaimedError(holder)
                file.unlink(missing_ok=True)
            if not _create(file, owner):
                raise ClaimedError(f"{folder.name}: another process has just started on it")
        return cls(file, owner)

    def held(self) -> bool:
        """Whether it is still ours: others may take over from a machine that slept or lost access to the folder."""
        return owner_of(self.file.parent) == self.owner

    def release(self) -> None:
        """Release the folder."""
        self._released.set()
        self._thread.join()
        if self.held():
            self.file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):  # the file server may be temporarily unavailable
                if self.held():
                    os.utime(self.file)


def owner_of(folder: Path) -> Owner | None:
    """Who holds the claim on a folder, dead or alive; None if there is no claim."""
    return _parse(_text(folder / CLAIM))


def holder(folder: Path) -> str | None:
    """A line about the live process working on a folder; None if there is none."""
    file = folder / CLAIM
    text = _text(file)
    return None if text is None else _alive(file, text)


def _create(file: Path, owner: Owner) -> bool:
    """Create the claim, complete with its content, by a hard link; returns whether it succeeded. Where there are no
    hard links, as on exFAT or some mounted cloud storage, its content appears a moment after it.
    """
    draft = file.with_name(f"{PROBE}{owner.id}")
    content = json.dumps(asdict(owner)) + "\n"
    try:
        draft.write_text(content)
        try:
            os.link(draft, file)
        except FileExistsError:
            return draft.stat().st_nlink == 2  # ours after all: a file server's answer was lost, and it was asked twice
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            try:
                with file.open("x") as new:
                    new.write(content)
            except FileExistsError:
                return False
            return _parse(_text(file)) == owner  # unless another process found it empty, and took it for torn
    finally:
        draft.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep others out while a dead claim is replaced by a new one. If the folder cannot be locked, as on some file
    servers, the atomic create is the only protection.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _alive(file: Path, text: str) -> str | None:
    """A line about the claim's owner; None if it is dead."""
    owner = _parse(text)
    if owner is None:  # not written by a live process: claims appear with their content, where there are hard links
        return None
    if owner.machine == _machine():
        born = _born(owner.pid)
        if born == owner.born != HIDDEN:
            return f"{file.parent.name}: process {owner.pid} on this machine is working on it"
        # another's birth is that of another process, except where clocks that were set since move it
        if born is None or (sys.platform == "linux" and born != HIDDEN):
            return None
    try:
        heard = file.stat().st_mtime
    except FileNotFoundError:
        return None
    silent = now(file.parent) - heard
    if silent > EXPIRY:
        return None
    return f"{file.parent.name}: process {owner.pid} on {owner.host} is working on it, seen {max(0, silent):.0f} s ago"


def now(folder: Path) -> float:
    """The time by the clock that stamps the folder's files, which is not ours on a network file system; by ours if no
    file can be created, because the folder is read-only or being removed.
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
