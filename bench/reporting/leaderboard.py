"""The leaderboard: records grouped over seeds, one table a data set and protocol."""

from __future__ import annotations

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.record import RunRecord
from bench.reporting import stats
from bench.reporting.machines import machines_of
from bench.reporting.predictions import Predictions, same_samples
from bench.reporting.settings import form, line, settings_of, started_from, told_apart
from bench.reporting.stats import LEVEL, Interval, Stat


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds. Rows of equal validation top-1 share a ``rank``, with a letter appended in
    their ``number``: 4a, 4b. ``variant``: the settings that distinguish it from others, see :func:`told_apart`.
    ``name``: its name in figures, see :func:`_name`.

    ``stats`` has, if every record has them, ``{val,test}_{top1,top5}`` (fractions), ``train_images_per_s``,
    ``fit_seconds`` and ``peak_memory_bytes``. If every record has predictions: ``test_class_mean`` in ``stats``, the
    mean of the classes' top-1, if they differ in their number of test images (else it equals the test top-1);
    ``interval``, of the test top-1; ``p``, the p-value of its equality with the first row's, Holm-corrected over the
    table. The last two are None otherwise. ``machine``: what it was trained on; empty if that is not known.
    """

    rank: int
    number: str
    model: str
    variant: str
    name: str
    n: int
    params: int | None
    macs: int | None
    stats: dict[str, Stat]
    run_ids: tuple[str, ...]
    interval: Interval | None = None
    p: float | None = None
    machine: str = ""

    @property
    def like_best(self) -> bool:
        """Whether its test top-1 does not differ significantly from the first row's."""
        return self.p is not None and self.p > 1 - LEVEL


@dataclass(frozen=True)
class Table:
    """The rows of one data set and protocol, by rank; ``ranked_by`` is ``val_top1``, or else ``test_top1``.

    ``usual``: settings that apply unless a row says otherwise. ``machine``: what they were trained on, or that it
    differs; empty if it is not known. ``notes``: what some rows lack: seeds, images, the comparison with the first.
    """

    dataset: str
    protocol: str
    ranked_by: str
    rows: tuple[Row, ...]
    usual: str = ""
    machine: str = ""
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.dataset} ({self.protocol})"


MEASURES = ("train_images_per_s", "fit_seconds", "peak_memory_bytes")


def tables(records: Iterable[RunRecord], predictions: Mapping[str, Predictions] | None = None) -> list[Table]:
    """Group the ok records; ``predictions`` by run id, for intervals and tests. Failed ones are only counted.

    Rows are ranked by validation top-1, so that test data decide nothing, or by test top-1 if a record has no
    validation numbers. Each is compared with the first on the same test images by :func:`stats.compare`; where these
    images have also chosen the first, as if all pairs of rows had been compared.
    """
    by_protocol: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    failed: dict[str, set[int]] = defaultdict(set)
    for record in records:
        if record.status == "ok":
            by_protocol[record.dataset, record.protocol].append(record)
        elif record.status == "failed":
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # of settings that none can have
                failed[_recipe(record)].add(record.seed)
    return [_table(*key, by_protocol[key], predictions or {}, failed) for key in sorted(by_protocol)]


def _recipe(record: RunRecord) -> str:
    """What makes a row, with the precision that was asked for: a failed run may not have got to its own, nor to
    validation.
    """
    settings = settings_of(replace(record, val_size=1)) | {
        "precision": record.config.get("trainer", {}).get("precision")
    }
    return form([record.dataset, record.protocol, settings])


def _table(
    dataset: str,
    protocol: str,
    records: Sequence[RunRecord],
    predictions: Mapping[str, Predictions],
    failed: Mapping[str, set[int]],
) -> Table:
    cells: dict[str, dict[int, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.run_id):
        # a seed counts once: settings that make no difference make other runs, too
        cells[form(settings_of(record))].setdefault(record.seed, record)
    groups = [list(cell.values()) for cell in cells.values()]
    settings = [settings_of(group[0]) for group in groups]
    networks = Counter(group[0].model for group in groups)
    variants, usual = told_apart([(group[0].model, own) for group, own in zip(groups, settings, strict=True)])
    ranked_by = "val_top1" if all("val" in record.metrics for record in records) else "test_top1"
    measured = [
        (group[0].model, _stats(group, predictions), variant, own, group)
        for group, variant, own in zip(groups, variants, settings, strict=True)
    ]
    measured.sort(key=lambda row: (-row[1][ranked_by].mean, row[0], row[2]))
    means = [numbers[ranked_by].mean for _, numbers, *_ in measured]
    rows: list[Row] = []
    for i, (model, numbers, variant, own, group) in enumerate(measured):
        rank, equals = 1 + means.index(means[i]), means.count(means[i])
        number = f"{rank}{_letters(i + 1 - rank)}" if equals > 1 else f"{rank}"
        name = _name(model, number, line(started_from(own)) if networks[model] == 1 else variant)
        names = tuple(record.run_id for record in group)
        rows.append(Row(rank, number, model, variant, name, len(group), group[0].params, group[0].macs, numbers, names))
    tests = None if ranked_by == "val_top1" else math.comb(len(rows), 2)
    machines, told = machines_of({row.number: group for row, (*_, group) in zip(rows, measured, strict=True)})
    rows = [replace(row, machine=machines.get(row.number, "")) for row in rows]
    rows = _tested(rows, predictions, tests)
    notes = [note for row, (*_, group) in zip(rows, measured, strict=True) for note in _notes(row, group, failed)]
    notes += _untested(rows)
    return Table(dataset, protocol, ranked_by, tuple(rows), usual, told, tuple(notes))


def _notes(row: Row, group: Sequence[RunRecord], failed: Mapping[str, set[int]]) -> Iterator[str]:
    """What a row lacks: seeds that failed, without which its mean may flatter; images that could not be read."""
    lost = {seed for record in group for seed in failed.get(_recipe(record), ())} - {record.seed for record in group}
    if lost:
        yield f"row {row.number}: {len(lost)} of {len(lost) + row.n} seeds failed"
    if skipped := max(record.skipped_images or 0 for record in group):
        yield f"row {row.number}: {skipped:,} images cannot be read, and are left out"


def _untested(rows: Sequence[Row]) -> Iterator[str]:
    """Which rows were not compared with the first, though there are predictions: they have no mark, either."""
    untested = [row.number for row in rows[1:] if row.p is None]
    if untested and any(row.interval is not None for row in rows):
        of = f"row {untested[0]} is" if len(untested) == 1 else f"rows {', '.join(untested)} are"
        yield f"{of} not compared with the first: predictions are missing or of other images"


ROOM = 32
"""Maximum characters of settings in a figure."""


def _name(model: str, number: str, told: str) -> str:
    """The network and the settings ``told``, or, if those are long, its number in the leaderboard, which has them.

    For a network with one row, only settings that mean a start from pretrained weights are given.
    """
    return f"{model} #{number}" if len(told) > ROOM else f"{model} {told}".strip()


def _letters(i: int) -> str:
    """a, b, …, z, aa, ab, …"""
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def _tested(rows: Sequence[Row], predictions: Mapping[str, Predictions], tests: int | None) -> list[Row]:
    """The rows with intervals and p-values, if their predictions exist and are for the same samples; corrected for so
    many ``tests``, by default those that are made.
    """
    answers = []  # for each row (n, samples) booleans, or None
    for row in rows:
        of_row = [predictions[name] for name in row.run_ids if name in predictions]
        whole = len(of_row) == len(row.run_ids) and same_samples(of_row)
        answers.append(np.stack([one.correct for one in of_row]) if whole else None)
    best, p_values = answers[0], {}
    for i, (row, correct) in enumerate(zip(rows, answers, strict=True)):
        if i == 0 or best is None or correct is None:
            continue
        if same_samples([predictions[name] for name in (rows[0].run_ids[0], row.run_ids[0])]):
            p_values[i] = stats.compare(best, correct)
    adjusted = dict(zip(p_values, stats.holm(list(p_values.values()), tests), strict=True))
    return [
        replace(row, interval=None if correct is None else stats.interval(correct), p=adjusted.get(i))
        for i, (row, correct) in enumerate(zip(rows, answers, strict=True))
    ]


def _stats(group: Sequence[RunRecord], predictions: Mapping[str, Predictions]) -> dict[str, Stat]:
    values: dict[str, list[float]] = defaultdict(list)
    for record in group:
        for split in ("val", "test"):
            for name in ("top1", "top5"):
                if split in record.metrics:
                    values[f"{split}_{name}"].append(record.metrics[split][name])
        for name in MEASURES:
            if (value := getattr(record, name)) is not None:
                values[name].append(value)
        if record.run_id in predictions and (mean := _class_mean(predictions[record.run_id])) is not None:
            values["test_class_mean"].append(mean)
    return {name: stats.mean_std(v) for name, v in values.items() if len(v) == len(group)}


def _class_mean(told: Predictions) -> float | None:
    """The mean top-1 of the classes with test images; None if these have equally many."""
    sizes = np.bincount(told.labels)
    there = sizes > 0
    if len(np.unique(sizes[there])) == 1:
        return None
    return float(np.nanmean(stats.per_class(stats.confusion(told.labels, told.predicted, len(told.classes)))))


ASCENDING = ("model", "params", "macs", "fit_seconds", "peak_memory_bytes")
DESCENDING = ("n", "val_top1", "val_top5", "test_top1", "test_class_mean", "test_top5", "train_images_per_s")
SORT_KEYS = ("rank", *ASCENDING, *DESCENDING)


def in_order(table: Table, key: str) -> Table:
    """The table with its rows sorted by one of SORT_KEYS, best or cheapest first; ranks do not change. Rows without the
    value come last.
    """
    if key == "rank":
        return table

    def value(row: Row) -> Any:
        if key in row.stats:
            return row.stats[key].mean
        return getattr(row, key, None)

    known = sorted((row for row in table.rows if value(row) is not None), key=value, reverse=key in DESCENDING)
    return replace(table, rows=(*known, *(row for row in table.rows if value(row) is None)))
