"""Terminal output: one rich console, with plain lines if the output is not a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class _Console(Console):
    """A console that goes quiet, rather than ending the program, when its pipe is closed (as by ``head``)."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when flushing


out = _Console(highlight=False)


def live() -> bool:
    """Whether the output is a terminal, where bars can be drawn."""
    return out.is_terminal


def say(text: str) -> None:
    """Print one line, never wrapped or truncated; what the terminal cannot show, such as a file name that is no text,
    as an escape sequence.
    """
    shown = text.encode(out.encoding, "backslashreplace").decode(out.encoding)
    out.print(shown, markup=False, soft_wrap=True)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say that a logger failed, instead of raising it."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        say(f"{what} has not got all of the run: {type(error).__name__}: {reason}")
