"""Fair timing on a machine that is not quite quiet, and where the results go."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import console, machine
from bench.files import write_atomically
from bench.reporting import markdown


def interleaved(contestants: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Images per second of each contestant in each round, measured in turns: A B C, A B C, ….

    Each is called once before, unmeasured. A call returns how many images it has processed.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            images = run()
            rates[name].append(images / (time.perf_counter() - start))
    return rates


def publish(
    resolved: Mapping[str, Any],
    subject: str,
    tables: Sequence[tuple[str, list[str], list[list[str]]]],
    values: Any,
    note: str = "",
    failed: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Print tables (title, header, rows) and write them as Markdown and the values as JSON, with the machine.

    The files are ``<paths.results>/speed/<subject>.md`` and ``.json``; returns their folder. ``note`` is printed below
    the tables, with a line for each measurement that ``failed``; ``command`` made them, if not bench-speed.
    """
    machine.fit_threads()  # as the contestants do in their own processes
    hardware, versions, now = machine.hardware(), machine.versions(), datetime.datetime.now(datetime.UTC)
    about = {
        "measured_at": now.isoformat(timespec="seconds"),
        "hardware": hardware,
        "versions": versions,
        "git_sha": machine.git_sha(),
    }
    vectors = hardware["cpu_capability"] + (", native bf16" if hardware["cpu_avx512_bf16"] else "")
    cores = f"{hardware['cores']} cores ({vectors})"
    if (threads := hardware["threads"]) != hardware["cores"]:
        cores += f", {threads} thread{'s' * (threads != 1)}"
    notes = [*([note] * bool(note)), *(f"Not measured: {reason}." for reason in failed)]
    lines = [
        f"# {command or f'bench-speed {subject}'}",
        "",
        f"{hardware['cpu']}, {cores}, GPUs: {', '.join(hardware['gpus']) or 'none'}; "
        f"PyTorch {versions['torch']}, torchvision {versions['torchvision']}; {now.date()}, "
        f"commit {about['git_sha'] or 'unknown'}.",
        *(line for told in notes for line in ("", told)),
    ]
    for title, header, rows in tables:
        shown = Table(header[0], title=title, title_justify="left")
        shown.columns[0].no_wrap = True
        for column in header[1:]:
            shown.add_column(column, justify="right", overflow="fold")
        for row in rows:
            shown.add_row(*row)
        console.out.print(shown)
        lines += ["", f"## {title}", "", *markdown.table(header, rows, left=header[:1])]
    for told in notes:
        console.out.print(told)
    folder = Path(resolved["paths"]["results"]).expanduser() / "speed"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{subject}.md", "\n".join(lines) + "\n")
    write_atomically(
        folder / f"{subject}.json", json.dumps({**about, "failed": list(failed), "results": values}, indent=2) + "\n"
    )
    console.say(f"written: {folder}/{subject}.md, {folder}/{subject}.json")
    return folder
