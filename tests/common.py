"""What several test files use."""

import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from bench.record import RunRecord
from bench.reporting import render
from bench.reporting.leaderboard import Table
from bench.store import Store

SHORT = ("trainer.max_epochs=1", "data.source.test_size=1500", "data.val_size=100", "trainer.accelerator=cpu")
"""One short epoch of a cell on digits: 197 images to train on, 100 to validate, 1,500 to test."""
NOISE = ("data=folder", "data.name=noise", "data.image_size=32", "data.batch_size=16", "trainer.accelerator=cpu",
         "trainer.max_epochs=1")  # fmt: skip
"""A shorter one, of two steps, for large networks that need not learn; the fixture ``noise`` has the images."""
KINDS = (("a", 0), ("b", 60))
"""Of noise: labels and their darkest values."""


def images_of_noise(root: Path, train: int, val: int, test: int) -> str:
    """Write a folder of images of two kinds of noise, so many of each kind; returns its setting."""
    rng = np.random.default_rng(0)
    for (split, n), (label, base) in itertools.product({"train": train, "val": val, "test": test}.items(), KINDS):
        folder = root / "noise" / split / label
        folder.mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(base, base + 196, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return f"paths.data={root}"


def files(folder: Path) -> list[str]:
    """Everything in the folder but what the tests put there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "locked")


def one_line(err: str) -> str:
    assert err.startswith("bench: ")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    return err


def printed(table: Table, width: int = 80) -> str:
    """A leaderboard's table as a terminal shows it."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(render.to_rich(table))
    return console.file.getvalue()


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    """Return once the condition holds; it must within so long."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "does not happen"
        time.sleep(0.05)


def publish(store: Store, record: RunRecord) -> Path:
    """Publish a record with a table of one epoch; returns its folder."""
    work = store.workspace(record.run_id)
    (work.path / "metrics.csv").write_text("epoch\n1\n")
    return store.publish(record, work)


def record_of(model: str = "lenet", seed: int = 0, val: float | None = 0.9, test: float = 0.8, **fields) -> RunRecord:
    """A record as a trained cell writes it, with any field replaced."""
    settings = {"model": {"name": model}, "data": {"name": "digits"}, "seed": seed, "optimizer": {"lr": 0.1}}
    metrics = {"train": {"top1": 0.95, "top5": 1.0, "loss": 0.1}, "test": {"top1": test, "top5": 0.99, "loss": 0.3}}
    if val is not None:
        metrics["val"] = {"top1": val, "top5": 0.98, "loss": 0.2}
    defaults = {
        "run_id": f"digits-{model}-s{seed}-0123456789",
        "status": "ok",
        "model": model,
        "dataset": "digits",
        "protocol": "stratified",
        "seed": seed,
        "image_size": 32,
        "created_at": "2026-01-02T03:04:05+00:00",
        "config": settings,
        "metrics": metrics,
        "params": 61706,
        "macs": 416520,
        "train_images_per_s": 1000.0,
        "fit_seconds": 2.0,
        "peak_memory_bytes": 2**30,
    }
    return RunRecord(**(defaults | fields))
