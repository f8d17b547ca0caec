"""The leaderboard: records grouped over seeds, one table a data set and protocol."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.record import RunRecord, identity
from bench.reporting import stats
from bench.reporting.predictions import Predictions, same_samples
from bench.reporting.stats import LEVEL, Interval, Stat


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds. ``variant``: the settings that tell it from others of the same model.

    ``stats`` holds, where every record has them, ``{val,test}_{top1,top5}`` (fractions), ``train_images_per_s``,
    ``fit_seconds`` and ``peak_memory_bytes``. Of the predictions, None where they are not there: ``interval``, of the
    test top-1; ``p``, of its being that of the first row, Holm-corrected over the table.
    """

    rank: int
    model: str
    variant: str
    n: int
    params: int | None
    macs: int | None
    stats: dict[str, Stat]
    run_ids: tuple[str, ...]
    interval: Interval | None = None
    p: float | None = None

    @property
    def like_best(self) -> bool:
        """Whether its test top-1 cannot be told from the first row's."""
        return self.p is not None and self.p > 1 - LEVEL


@dataclass(frozen=True)
class Table:
    """The rows of one data set and protocol, by rank; ``ranked_by`` is ``val_top1``, or else ``test_top1``."""

    dataset: str
    protocol: str
    ranked_by: str
    rows: tuple[Row, ...]


CHOICES = ("augment.", "optimizer.", "scheduler.")
"""Groups of settings of which other choices have others."""

STARTED_FROM = ("model.pretrained", "model.freeze")
"""Settings of runs that did not start from random weights, which a table always tells."""

MEASURES = ("train_images_per_s", "fit_seconds", "peak_memory_bytes")


def tables(records: Iterable[RunRecord], predictions: Mapping[str, Predictions] | None = None) -> list[Table]:
    """Group the ok records; ``predictions`` by run id, for intervals and tests.

    Rows are ranked by validation top-1, so that test data choose nothing, or by test top-1 where a record has no
    validation numbers. Each is compared with the first on the same test images by :func:`stats.compare`.
    """
    by_protocol: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status == "ok":
            by_protocol[record.dataset, record.protocol].append(record)
    return [_table(*key, by_protocol[key], predictions or {}) for key in sorted(by_protocol)]


def _table(dataset: str, protocol: str, records: Sequence[RunRecord], predictions: Mapping[str, Predictions]) -> Table:
    cells: dict[str, list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.run_id):  # the bootstrap draws in this order
        cells[json.dumps(settings_of(record), sort_keys=True)].append(record)
    groups = list(cells.values())
    ranked_by = "val_top1" if all("val" in record.metrics for record in records) else "test_top1"
    measured = [(group[0].model, _stats(group), _variant(group[0], groups), group) for group in groups]
    measured.sort(key=lambda row: (-row[1][ranked_by].mean, row[0], row[2]))
    rows: list[Row] = []
    for position, (model, numbers, variant, group) in enumerate(measured):
        equal = position > 0 and numbers[ranked_by].mean == rows[-1].stats[ranked_by].mean
        rank = rows[-1].rank if equal else position + 1
        names = tuple(record.run_id for record in group)
        rows.append(Row(rank, model, variant, len(group), group[0].params, group[0].macs, numbers, names))
    return Table(dataset, protocol, ranked_by, tuple(_tested(rows, predictions)))


def _tested(rows: Sequence[Row], predictions: Mapping[str, Predictions]) -> list[Row]:
    """The rows with intervals and p-values, where their predictions are there and of the same samples."""
    answers = []  # of each row (n, samples) booleans, or None
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
    adjusted = dict(zip(p_values, stats.holm(list(p_values.values())), strict=True))
    return [
        replace(row, interval=None if correct is None else stats.interval(correct), p=adjusted.get(i))
        for i, (row, correct) in enumerate(zip(rows, answers, strict=True))
    ]


def _apart_from_seed(record: RunRecord) -> dict[str, Any]:
    return {key: value for key, value in identity(record.config).items() if key != "seed"}


def _stats(group: Sequence[RunRecord]) -> dict[str, Stat]:
    values: dict[str, list[float]] = defaultdict(list)
    for record in group:
        for split in ("val", "test"):
            for name in ("top1", "top5"):
                if split in record.metrics:
                    values[f"{split}_{name}"].append(record.metrics[split][name])
        for name in MEASURES:
            if (value := getattr(record, name)) is not None:
                values[name].append(value)
    return {name: stats.mean_std(v) for name, v in values.items() if len(v) == len(group)}


def _variant(record: RunRecord, groups: Sequence[Sequence[RunRecord]]) -> str:
    """The settings that tell ``record`` from other rows, ``key=value`` each.

    All in which it differs from another configuration of its model. Of those in which it differs from other models,
    what is not the usual value of the table, most rows'; but not what a model brings along, its network and its
    learning rate. Always that it did not start from random weights.
    """
    own, others = settings_of(record), [(group[0].model, settings_of(group[0])) for group in groups]
    told = {key for key in STARTED_FROM if own.get(key) is not None}
    for key in own:
        # what others have not is of an augmentation, optimizer or schedule that they have not, whose name tells
        there = [(model, values) for model, values in others if key in values or not key.startswith(CHOICES)]
        brought = key.startswith("model.") or key == "optimizer.lr"
        of_model = any(model == record.model and values.get(key) != own[key] for model, values in there)
        if of_model or (not brought and not _usual(own[key], [values.get(key) for _, values in there])):
            told.add(key)
    return " ".join(f"{key}={own[key]}" for key in sorted(told & own.keys()))


def _usual(value: Any, values: Sequence[Any]) -> bool:
    """Whether ``value`` occurs more often in ``values`` than any other."""
    counts = Counter(map(repr, values))  # some are lists
    return all(n < counts[repr(value)] for other, n in counts.items() if other != repr(value))


def settings_of(record: RunRecord) -> dict[str, Any]:
    """The settings that decide a result, by dotted name, and the precision that ``auto`` chose."""
    settings = _apart_from_seed(record)
    augment = dict(settings.pop("augment", []))
    normalize = augment.get("normalize", {}).get("_target_", "").rpartition(".")[2]
    leaves = dict(_leaves(settings | {"augment": augment}))
    for name in ("num_classes", "in_channels", "image_size"):  # told by data
        leaves.pop(f"model.net.{name}", None)
    leaves.pop("augment.normalize._target_", None)
    leaves.pop("trainer.precision", None)  # what came of it tells
    leaves.pop("data.epochs", None)  # trainer.max_epochs are those that were trained
    names = ",".join(name for name in augment if name != "normalize")
    leaves |= {"augment": f"[{names}]", "augment/normalize": normalize, "precision": record.precision}
    for name in ("optimizer", "scheduler"):
        if (target := leaves.pop(f"{name}._target_", None)) is not None:
            leaves[name] = target.rpartition(".")[2].lower()
    return leaves


def _leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, node


ASCENDING = ("model", "params", "macs", "fit_seconds", "peak_memory_bytes")
SORT_KEYS = ("rank", *ASCENDING, "n", "val_top1", "val_top5", "test_top1", "test_top5", "train_images_per_s")


def in_order(table: Table, key: str) -> Table:
    """The table with its rows by one of SORT_KEYS, the best or cheapest first; ranks stay. Rows without the number
    come last.
    """
    if key == "rank":
        return table

    def value(row: Row) -> Any:
        if key in row.stats:
            return row.stats[key].mean
        return getattr(row, key, None)

    known = sorted((row for row in table.rows if value(row) is not None), key=value, reverse=key not in ASCENDING)
    return replace(table, rows=(*known, *(row for row in table.rows if value(row) is None)))
