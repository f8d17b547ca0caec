"""What several test files use."""

import io
from pathlib import Path

from rich.console import Console

from bench.reporting import render
from bench.reporting.leaderboard import Table

SHORT = ("trainer.max_epochs=1", "data.source.test_size=1500", "data.val_size=100", "trainer.accelerator=cpu")
"""One short epoch of a cell on digits: 197 images to train on, 100 to validate, 1,500 to test."""


def files(folder: Path) -> list[str]:
    """Everything in the folder but what the tests put there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "locked")


def one_line(err: str) -> str:
    assert err.startswith("bench: ")
    assert len(err.strip().splitlines()) <= 2
    assert "Traceback" not in err
    return err


def printed(table: Table, width: int = 80) -> str:
    """A leaderboard's table as a terminal shows it."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(render.to_rich(table))
    return console.file.getvalue()
