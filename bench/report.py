"""The ``bench-report`` command: the leaderboard of a results folder, rebuilt from its records.

    bench-report [paths.results=results/local] [data=…] [protocol=…] [model=…] [seed=…] [sort=rank] [readme=FILE]

Writes leaderboard.md, leaderboard.csv, report.html (an interactive page that works offline) and figures/ (SVG and PNG)
of all runs into the folder. Prints the tables of the runs selected by data, protocol, model and seed (one value, or
several separated by commas), ranked among themselves. sort: rank (by validation top-1, the default), test_top1, params,
macs, fit_seconds and others; ranks do not change. Figures of such names that belong to no run are removed. readme=FILE:
inserts each table between the lines <!-- leaderboard: DATA PROTOCOL --> and <!-- end --> of that file, and the
ablations between <!-- ablations: DATA PROTOCOL --> and <!-- end -->.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import console
from bench.errors import ConfigError
from bench.files import check_writable, expanded, write_atomically
from bench.record import RunRecord
from bench.reporting import ablations, leaderboard, predictions, render
from bench.reporting.predictions import Predictions
from bench.store import DEFAULT_RESULTS, Store

FILTERS = {"data": "dataset", "protocol": "protocol", "model": "model", "seed": "seed"}
"""Setting → field of the records."""
SETTINGS = ("paths.results", *FILTERS, "sort", "readme")


class Made(NamedTuple):
    """What a results folder contains: all records, predictions by run id, the tables of the ok records, and the
    ablations found in each table.
    """

    records: list[RunRecord]
    predictions: dict[str, Predictions]
    tables: list[leaderboard.Table]
    effects: list[list[ablations.Effect]]


def build(store: Store, show: Sequence[RunRecord] | None = None) -> Made:
    """Write the leaderboard of all records; print the tables that contain the records ``show``, by default all."""
    records = store.load_all()
    told = predictions_of(store, records)
    tables = leaderboard.tables(records, told)
    effects = [ablations.effects(table, records, told) for table in tables]
    if tables:
        write_atomically(store.root / "leaderboard.md", render.to_markdown(tables, effects))
        write_atomically(store.root / "leaderboard.csv", render.to_csv(tables))
    wanted = None if show is None else {(record.dataset, record.protocol) for record in show}
    for table in tables:
        if wanted is None or (table.dataset, table.protocol) in wanted:
            console.out.print(render.to_rich(table))
    return Made(records, told, tables, effects)


def predictions_of(store: Store, records: Iterable[RunRecord]) -> dict[str, Predictions]:
    """Run id → predictions of the ok records that have them; warns about damaged files."""
    found = {}
    for record in records:
        if record.status == "ok":
            try:
                one = predictions.load(store.path(record.run_id))
            except ValueError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            if one is not None:
                found[record.run_id] = one
    return found


def main() -> None:
    """Run the command line; exit code 2 for a usage error."""
    from bench import cli  # only now: imports Hydra

    cli.run("bench-report", __doc__ or "", report)


def report(arguments: list[str]) -> None:
    """Build and print what the arguments ask for."""
    from bench import cli  # only now: imports Hydra

    own = cli.settings(arguments, SETTINGS)
    settings = {key: cli.single(own, key) for key in own}
    if (key := settings.get("sort", "rank")) not in leaderboard.SORT_KEYS:
        raise ConfigError(f"sort={key}: must be one of {', '.join(leaderboard.SORT_KEYS)}")
    readme = expanded(settings["readme"], "readme") if "readme" in settings else None
    if readme is not None and not readme.is_file():
        raise ConfigError(f"readme={readme}: no such file")
    results = expanded(settings.get("paths.results", DEFAULT_RESULTS))
    store = Store(results)
    everything = store.load_all()
    records = [record for record in everything if record.status == "ok"]
    failed = [record for record in everything if record.status == "failed" and _passes(record, settings)]
    if not records:
        raise ConfigError(f"paths.results={results}: contains no finished runs")
    chosen = _chosen(records, settings)
    check_writable(results)
    made = build(store, show=[])
    for table in leaderboard.tables([*chosen, *failed], made.predictions):
        console.out.print(render.to_rich(leaderboard.in_order(table, key)))
    if readme is not None:
        try:
            text = readme.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"readme={readme}: is not UTF-8 text") from error
        ends = "\r\n" if 0 < text.count("\r\n") == text.count("\n") else "\n"
        text = text.replace(ends, "\n")
        sections = render.sections(made.tables, made.effects)
        try:
            has_place = render.marked(text, sections)
        except ValueError as error:
            raise ConfigError(f"readme={readme}: {error}") from error
        if not has_place:
            there = ", ".join(f"<!-- {' '.join((f'{kind}:', *names))} -->" for kind, *names in sections)
            raise ConfigError(f"readme={readme}: has no place for a table; add {there} and <!-- end --> to it")
        place, mode = readme.resolve(), readme.stat().st_mode  # a link stays one
        write_atomically(place, render.inject(text, sections).replace("\n", ends))
        place.chmod(mode)
    written = [results / "leaderboard.md", results / "leaderboard.csv", *([readme] if readme else [])]
    for package, what, write in (("plotly", "report.html", write_page), ("matplotlib", "figures", write_figures)):
        if importlib.util.find_spec(package) is None:
            old = "new " if (results / what).exists() else ""
            console.say(f"no {old}{what}: needs {package}; pip install 'convbench[report]'")
        else:
            written.append(write(store, made))
    console.say(f"written: {', '.join(map(str, written))}")


def write_page(store: Store, made: Made) -> Path:
    """Write report.html; returns its path."""
    from bench.reporting import page  # only now: needs plotly

    file = store.root / "report.html"
    write_atomically(file, page.build(made.tables, made.records, made.predictions, store.root / "runs"))
    return file


def write_figures(store: Store, made: Made) -> Path:
    """Write figures/, without those of what is no longer there; returns its path."""
    from bench.reporting import figures  # only now: needs matplotlib

    folder = store.root / "figures"
    folder.mkdir(exist_ok=True)
    drawn = figures.draw(made.tables, made.effects, made.predictions, store.root / "runs")
    for name, content in drawn.items():
        write_atomically(folder / name, content)
    for left in folder.iterdir():
        if figures.NAME.fullmatch(left.name) and left.name not in drawn:
            left.unlink(missing_ok=True)
    return folder


def _chosen(records: Sequence[RunRecord], settings: dict[str, str]) -> list[RunRecord]:
    """The records that pass the filters; for an unknown value an error that lists the available ones."""
    for key, field in FILTERS.items():
        if key in settings:
            wanted = settings[key].split(",")
            there = sorted({str(getattr(record, field)) for record in records})
            if unknown := [value for value in wanted if value not in there]:
                raise ConfigError(f"{key}={unknown[0]}: no finished run matches; available: {', '.join(there)}")
            records = [record for record in records if _passes(record, {key: settings[key]})]
    return list(records)


def _passes(record: RunRecord, settings: Mapping[str, str]) -> bool:
    """Whether it passes the filters among the settings."""
    return all(
        str(getattr(record, field)) in settings[key].split(",") for key, field in FILTERS.items() if key in settings
    )


if __name__ == "__main__":
    main()
