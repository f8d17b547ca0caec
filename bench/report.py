"""The ``bench-report`` command: the leaderboard of a results folder, rebuilt from its records.

    bench-report [paths.results=results/local] [data=NAME] [protocol=NAME]

Writes leaderboard.md and leaderboard.csv into the folder and prints the tables that data and protocol choose.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from bench import console
from bench.record import RunRecord
from bench.reporting import leaderboard
from bench.store import DEFAULT_RESULTS, Store, StoreError, check_writable, write_atomically

SETTINGS = ("paths.results", "data", "protocol")


def build(store: Store, show: Sequence[RunRecord] | None = None) -> None:
    """Write the leaderboard of all records; print the tables that the records ``show`` belong to, or all."""
    tables = leaderboard.tables(store.load_all())
    if tables:
        write_atomically(store.root / "leaderboard.md", leaderboard.to_markdown(tables))
        write_atomically(store.root / "leaderboard.csv", leaderboard.to_csv(tables))
    wanted = None if show is None else {(record.dataset, record.protocol) for record in show}
    for table in tables:
        if wanted is None or (table.dataset, table.protocol) in wanted:
            console.out.print(leaderboard.to_rich(table))


def main() -> None:
    """Run the command line; exit code 2 for a mistake in the call."""
    arguments = sys.argv[1:]
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return
    settings = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in SETTINGS or not equals:
            _refuse(f"{argument}: no such setting; write one of {', '.join(f'{name}=…' for name in SETTINGS)}")
        settings[key] = value
    results = Path(settings.get("paths.results", DEFAULT_RESULTS)).expanduser()
    store = Store(results)
    records = [record for record in store.load_all() if record.status == "ok"]
    if not records:
        _refuse(f"paths.results={results}: holds no finished runs")
    show = [
        record
        for record in records
        if record.dataset == settings.get("data", record.dataset)
        and record.protocol == settings.get("protocol", record.protocol)
    ]
    if not show:
        there = sorted({f"data={record.dataset} protocol={record.protocol}" for record in records})
        _refuse(f"no finished run matches; there are {', '.join(there)}")
    try:
        check_writable(results)
    except StoreError as error:
        _refuse(str(error))
    build(store, show)
    console.say(f"written: {results}/leaderboard.md, {results}/leaderboard.csv")


def _refuse(text: str) -> NoReturn:
    print(f"bench-report: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
