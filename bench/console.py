"""What is shown in the terminal: one rich console, plain lines where output is not a terminal."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class _Console(Console):
    """A console that falls silent, rather than ends the program, when nobody reads on (a pipe into ``head``)."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes


out = _Console(highlight=False)


def live() -> bool:
    """Whether bars can be drawn: output is a terminal."""
    return out.is_terminal


def say(text: str) -> None:
    """Print one line, never wrapped or cut."""
    out.print(text, markup=False, soft_wrap=True)
