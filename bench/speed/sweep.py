"""What a sweep costs beside its training: the wall time of ten cells of LeNet over the sum of their fit times."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from bench.errors import MeasureError
from bench.interrupt import how_ended
from bench.speed.timing import publish
from bench.store import Store

CELLS = 10


def measure(resolved: Mapping[str, Any]) -> None:
    """Run the sweep as a user does, in a process of its own, and publish its times."""
    trainer, data = resolved["trainer"], resolved["data"]["name"]
    with tempfile.TemporaryDirectory() as results:
        seeds = ",".join(map(str, range(CELLS)))
        command = [sys.executable, "-m", "bench", "-m", "model=lenet", f"seed={seeds}", f"data={data}"]
        command += [f"trainer.max_epochs={trainer['max_epochs']}", f"trainer.accelerator={trainer['accelerator']}"]
        command += [f"paths.{name}='{resolved['paths'][name]}'" for name in ("data", "cache")]
        start = time.perf_counter()
        with subprocess.Popen([*command, f"paths.results={results}"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [(time.perf_counter() - start, line.strip()) for line in process.stdout]
        wall = time.perf_counter() - start
        if process.returncode:
            said = next((line for _, line in lines if ": failed, " in line), how_ended(process.returncode))
            raise MeasureError(f"the sweep has failed: {said}")
        stamps = [at for at, line in lines if "top-1 in" in line]
        records = sorted(Store(results).load_all(), key=lambda record: record.seed)
    fits = [record.fit_seconds or 0.0 for record in records]
    # from the end of the cell before; the first one's holds the start of Python and the import of PyTorch
    set_up = [stamp - before - fit for before, stamp, fit in zip([0.0, *stamps], stamps, fits, strict=False)]
    values = {
        "data": data,
        "epochs": trainer["max_epochs"],
        "wall_seconds": wall,
        "fit_seconds": fits,
        "beside_fit_seconds": set_up,
        "ratio": wall / sum(fits),
    }
    rows = [
        ["wall time", f"{wall:.1f} s"],
        ["sum of fit times", f"{sum(fits):.1f} s"],
        ["ratio", f"{wall / sum(fits):.3f}"],
        ["first cell: imports, set-up, test, record", f"{set_up[0]:.2f} s"],
        ["a later one: set-up, test, record; median", f"{statistics.median(set_up[1:]):.2f} s"],
        ["a later one: set-up, test, record; largest", f"{max(set_up[1:]):.2f} s"],
    ]
    epochs = trainer["max_epochs"]
    title = f"{CELLS} cells of LeNet on {data}, {epochs} epoch{'s' * (epochs != 1)} each"
    publish(resolved, "sweep", [(title, ["", "time"], rows)], values)
