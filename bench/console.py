"""What is shown in the terminal: one rich console, plain lines where output is not a terminal."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False)


def live() -> bool:
    """Whether bars can be drawn: output is a terminal."""
    return out.is_terminal


def say(text: str) -> None:
    """Print one line, never wrapped or cut."""
    out.print(text, markup=False, soft_wrap=True)
