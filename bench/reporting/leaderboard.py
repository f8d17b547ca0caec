"""The leaderboard: records grouped over seeds, one table a data set and protocol."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table as RichTable

from bench.record import RunRecord, identity


class Stat(NamedTuple):
    """Mean and sample standard deviation (n - 1) over ``n`` values; ``std`` is None for one value."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One configuration over its seeds. ``variant``: the settings that tell it from others of the same model.

    ``stats`` holds, where every record has them, ``{val,test}_{top1,top5}`` (fractions), ``train_images_per_s``,
    ``fit_seconds`` and ``peak_memory_bytes``.
    """

    rank: int
    model: str
    variant: str
    n: int
    params: int | None
    macs: int | None
    stats: dict[str, Stat]


@dataclass(frozen=True)
class Table:
    """The rows of one data set and protocol, by rank; ``ranked_by`` is ``val_top1``, or else ``test_top1``."""

    dataset: str
    protocol: str
    ranked_by: str
    rows: tuple[Row, ...]


STARTED_FROM = ("model.pretrained", "model.freeze")
"""Settings of runs that did not start from random weights, which a table always tells."""

MEASURES = ("train_images_per_s", "fit_seconds", "peak_memory_bytes")


def tables(records: Iterable[RunRecord]) -> list[Table]:
    """Group the ok records.

    Rows are ranked by validation top-1, so that test data choose nothing, or by test top-1 where a record has no
    validation numbers.
    """
    by_protocol: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.status == "ok":
            by_protocol[record.dataset, record.protocol].append(record)
    return [_table(*key, by_protocol[key]) for key in sorted(by_protocol)]


def _table(dataset: str, protocol: str, records: Sequence[RunRecord]) -> Table:
    cells: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        cells[json.dumps(_settings(record), sort_keys=True)].append(record)
    groups = list(cells.values())
    ranked_by = "val_top1" if all("val" in record.metrics for record in records) else "test_top1"
    measured = [(group[0].model, _stats(group), _variant(group[0], groups), group) for group in groups]
    measured.sort(key=lambda row: (-row[1][ranked_by].mean, row[0], row[2]))
    rows: list[Row] = []
    for position, (model, stats, variant, group) in enumerate(measured):
        equal = position > 0 and stats[ranked_by].mean == rows[-1].stats[ranked_by].mean
        rank = rows[-1].rank if equal else position + 1
        rows.append(Row(rank, model, variant, len(group), group[0].params, group[0].macs, stats))
    return Table(dataset, protocol, ranked_by, tuple(rows))


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
    return {
        name: Stat(statistics.fmean(v), statistics.stdev(v) if len(v) > 1 else None, len(v))
        for name, v in values.items()
        if len(v) == len(group)
    }


def _variant(record: RunRecord, groups: Sequence[Sequence[RunRecord]]) -> str:
    """The settings that tell ``record`` from other rows, ``key=value`` each.

    All in which it differs from another configuration of its model; and from those of other models all but what a
    model brings along, its network and its learning rate. Always that it did not start from random weights.
    """
    own = _settings(record)
    differing = set()
    for group in groups:
        other = _settings(group[0])
        for key in own.keys() | other.keys():
            brought = key.startswith("model.") or key == "optimizer.lr"
            if key.startswith("augment.") and not (key in own and key in other):
                continue  # the list of augmentations tells
            if own.get(key) != other.get(key) and (group[0].model == record.model or not brought):
                differing.add(key)
    differing |= {key for key in STARTED_FROM if own.get(key) is not None}
    return " ".join(f"{key}={own[key]}" for key in sorted(differing & own.keys()))


def _settings(record: RunRecord) -> dict[str, Any]:
    """The settings that decide a result, by dotted name, and the precision that ``auto`` chose."""
    settings = _apart_from_seed(record)
    augment = dict(settings.pop("augment", []))
    normalize = augment.get("normalize", {}).get("_target_", "").rpartition(".")[2]
    leaves = dict(_leaves(settings | {"augment": augment}))
    for name in ("num_classes", "in_channels", "image_size"):  # told by data
        leaves.pop(f"model.net.{name}", None)
    leaves.pop("augment.normalize._target_", None)
    names = ",".join(name for name in augment if name != "normalize")
    return leaves | {"augment": f"[{names}]", "augment/normalize": normalize, "precision": record.precision}


def _leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, node


def percent(stat: Stat | None, spread: bool = True) -> str:
    """``97.2`` or ``97.2±0.3``, of a fraction; ``–`` where there is none."""
    if stat is None:
        return "–"
    return f"{100 * stat.mean:.1f}" + (f"±{100 * stat.std:.1f}" if spread and stat.std is not None else "")


def count(value: float | None) -> str:
    """``61.7k``, ``6.2M``, ``1.9G``; ``–`` where there is none."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # what three digits round up to the unit
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


COLUMNS = (
    *("#", "model", "n", "val top-1", "val top-5", "test top-1", "test top-5"),
    *("params", "MACs", "images/s", "fit s", "peak MiB"),
)


def _cells(row: Row) -> list[str]:
    stats = row.stats
    rate, seconds, memory = (stats[name].mean if name in stats else None for name in MEASURES)
    return [
        str(row.rank),
        row.model + (f"\n{row.variant}" if row.variant else ""),
        str(row.n),
        percent(stats.get("val_top1")),
        percent(stats.get("val_top5"), spread=False),
        percent(stats.get("test_top1")),
        percent(stats.get("test_top5"), spread=False),
        count(row.params),
        count(row.macs),
        "–" if rate is None else f"{rate:,.0f}",
        "–" if seconds is None else f"{seconds:,.0f}",
        "–" if memory is None else f"{memory / 2**20:,.0f}",
    ]


def caption(table: Table) -> str:
    """What the table's numbers are."""
    seeds = "mean±std over n seeds; " if any(row.n > 1 for row in table.rows) else ""
    by = "validation" if table.ranked_by == "val_top1" else "test (there are no validation images)"
    return f"accuracies in %; {seeds}ranked by {by} top-1"


def to_rich(table: Table) -> RichTable:
    """For the terminal; fits 80 columns."""
    title = f"{table.dataset} ({table.protocol})"
    out = RichTable(title=title, caption=caption(table), box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        heading = name.replace(" ", "\n").replace("/", "\n/")
        out.add_column(heading, justify="left" if name == "model" else "right", overflow="fold")
    for row in table.rows:
        out.add_row(*map(escape, _cells(row)))  # augment=[flip] is no markup
    return out


def to_markdown(all_tables: Sequence[Table]) -> str:
    """One section a table."""
    lines = ["# Leaderboard", ""]
    for table in all_tables:
        lines += [f"## {table.dataset} ({table.protocol})", "", f"{caption(table).capitalize()}.", ""]
        lines += [
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "|".join("---" if c == "model" else "--:" for c in COLUMNS) + "|",
        ]
        lines += ["| " + " | ".join(cell.replace("\n", "<br>") for cell in _cells(row)) + " |" for row in table.rows]
        lines.append("")
    return "\n".join(lines)


def to_csv(all_tables: Sequence[Table]) -> str:
    """One line a row of any table, numbers in full: accuracies as fractions, memory in bytes."""
    names = [f"{split}_{name}" for split in ("val", "test") for name in ("top1", "top5")] + list(MEASURES)
    header = ["dataset", "protocol", "rank", "model", "variant", "n", "params", "macs"]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(header + [f"{name}{part}" for name in names for part in ("", "_std")])
    for table in all_tables:
        for row in table.rows:
            numbers: list[Any] = []
            for name in names:
                stat = row.stats.get(name)
                numbers += [None, None] if stat is None else [stat.mean, stat.std]
            out.writerow(
                [table.dataset, table.protocol, row.rank, row.model, row.variant, row.n, row.params, row.macs, *numbers]
            )
    return text.getvalue()
