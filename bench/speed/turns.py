"""Contestants in processes of their own, which take turns: one works, the others wait."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

import torch

from bench import machine
from bench.errors import MeasureError
from bench.interrupt import how_ended

CONTEXT = multiprocessing.get_context("spawn")  # no thread, lock or allocator of this process


class Done(NamedTuple):
    """What a turn was: so many ``images``; peak memory so far, in bytes, and what else there is to tell, or why it
    ``failed``.
    """

    images: int
    peak_bytes: int
    more: dict[str, float]
    failed: str = ""


class Turns:
    """In the process of a contestant: waits to be told to begin, and tells when it is done."""

    def __init__(self, line: Connection, device: torch.device):
        self.line, self.peak = line, machine.PeakMemory(device)

    def wait(self) -> None:
        """Until the next turn.

        Raises:
            EOFError: there is none.
        """
        self.line.recv()

    def done(self, images: int, **more: float) -> None:
        """End the turn."""
        self.line.send(Done(images, self.peak.read(), more))

    def failed(self, reason: str) -> None:
        """End a turn that could not be taken."""
        self.line.send(Done(0, self.peak.read(), {}, reason))


class Contestant:
    """A process that runs ``work(line, *arguments)``, of which a call is a turn: it returns how many images it was.

    ``work`` is a function of a module, as its name is what the process is told. Its accelerator is free between the
    turns. ``last``: how the last turn ended.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any):
        self.line, theirs = CONTEXT.Pipe()
        self.last = Done(0, 0, {})
        self.process = CONTEXT.Process(target=_run, args=(theirs, work, arguments))
        self.process.start()
        theirs.close()

    def __call__(self) -> int:
        """Let it take a turn.

        Raises:
            MeasureError: its process has ended, and has told why on standard error, unless it was killed.
        """
        try:
            self.line.send(True)
            self.last = self.line.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            how = how_ended(self.process.exitcode or 0)
            raise MeasureError(f"a process of the comparison was lost: {how}") from error
        return self.last.images

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.line.close()
        self.process.join(timeout=30)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _run(line: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    with contextlib.suppress(EOFError):  # no more turns
        work(line, *arguments)


@contextlib.contextmanager
def together(contestants: dict[str, Contestant]) -> Iterator[dict[str, Contestant]]:
    """All of them, ended with the block."""
    with contextlib.ExitStack() as stack:
        for each in contestants.values():
            stack.enter_context(each)
        yield contestants
