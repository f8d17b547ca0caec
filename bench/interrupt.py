"""Signals that ask a run to stop: Ctrl-C, SIGTERM, and SIGUSR1 and SIGUSR2, the batch systems' advance warnings."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from bench import console

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


def how_ended(code: int) -> str:
    """A process that ended with this exit code: ``exit code 3``, or the signal that killed it, ``SIGKILL``."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Interrupted(BaseException):
    """The run was asked to stop; not an Exception, so that it is not handled as a failure."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum

    def __str__(self) -> str:
        return "stopped by Ctrl-C" if self.signum == signal.SIGINT else f"stopped by {signal.Signals(self.signum).name}"


class Interrupts:
    """While entered, signals raise Interrupted; while ``deferred``, the first one is only noted in ``pending``, so that
    the training loop can save its state. The second one always raises.

    Outside the main thread, where Python handles no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """Wraps a loop that checks ``pending``."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def install(self) -> None:
        """Install the handlers, again if others have replaced them."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.deferred and self.pending is None:
            self.pending = signum
            console.say(f"{signal.Signals(signum).name}: saving after this batch; a second signal stops at once")
        else:
            raise Interrupted(signum)
