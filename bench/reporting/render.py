"""The leaderboard as text: for the terminal, Markdown, CSV, and between the markers of another file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from bench.reporting import markdown
from bench.reporting.ablations import Effect
from bench.reporting.leaderboard import MEASURES, Row, Table
from bench.reporting.stats import LEVEL, Stat


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


LIKE_BEST = "≈"
"""Marks rows whose test top-1 cannot be told from the first row's."""
CLASS_MEAN = "test class mean"
"""The column that only tables have whose classes differ in their number of test images."""


def _cells(row: Row) -> dict[str, str]:
    """Column → text."""
    stats = row.stats
    rate, seconds, memory = (stats[name].mean if name in stats else None for name in MEASURES)
    return {
        "#": row.number,
        "model": row.model + (f" {LIKE_BEST}" if row.like_best else "") + (f"\n{row.variant}" if row.variant else ""),
        "n": str(row.n),
        "val top-1": percent(stats.get("val_top1")),
        "val top-5": percent(stats.get("val_top5"), spread=False),
        "test top-1": percent(stats.get("test_top1")),
        "95 % interval": "–" if row.interval is None else f"{100 * row.interval.low:.1f}–{100 * row.interval.high:.1f}",
        CLASS_MEAN: percent(stats.get("test_class_mean")),
        "test top-5": percent(stats.get("test_top5"), spread=False),
        "params": count(row.params),
        "MACs": count(row.macs),
        "images/s": "–" if rate is None else f"{rate:,.0f}",
        "fit s": "–" if seconds is None else f"{seconds:,.0f}",
        "peak MiB": "–" if memory is None else f"{memory / 2**20:,.0f}",
    }


def _lines(table: Table) -> list[dict[str, str]]:
    """Of each row column → text, of the columns that the table has."""
    lines = [_cells(row) for row in table.rows]
    absent = [] if any("test_class_mean" in row.stats for row in table.rows) else [CLASS_MEAN]
    if all("test_top5" in row.stats and row.stats["test_top5"].mean == 1 for row in table.rows):  # of five classes, say
        absent += ["val top-5", "test top-5"]
    return [{name: text for name, text in line.items() if name not in absent} for line in lines]


def caption(table: Table) -> str:
    """What the table's numbers are."""
    seeds = "mean±std over n seeds; " if any(row.n > 1 for row in table.rows) else ""
    by = "validation top-1" if table.ranked_by == "val_top1" else "test top-1 (there are no validation images)"
    text = f"accuracies in %; {seeds}ranked by {by}"
    if any(row.like_best for row in table.rows):
        text += (
            f"; {LIKE_BEST} test top-1 not distinguishable from the first row's (p > {1 - LEVEL:.2f}, Holm-corrected)"
        )
    if any(row.interval is not None and row.n == 1 for row in table.rows):
        (first,) = (row for row in table.rows if row.number in ("1", "1a"))  # which the others are tested against
        alone = "reflect the test images only, not the seed"
        varies = "the test takes seeds to vary as in the first row"
        text += "; with n = 1, "
        text += f"interval and test {alone}" if first.n == 1 else f"intervals {alone}, and {varies}"
    text += "".join(f"; {note}" for note in table.notes)
    text += f"; on {table.machine}" if table.machine else ""
    return text + (f"; settings unless a row says otherwise: {table.usual}" if table.usual else "")


def to_rich(table: Table) -> Group:
    """For the terminal; fits 80 columns, without top-5 and without the mean over classes, the settings below."""
    out = RichTable(title=Text(table.title), title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    lines = _lines(table)
    shown = [name for name in lines[0] if not name.endswith("top-5") and name != CLASS_MEAN]
    for name in shown:
        heading = name.replace("95 %", "95%").replace(" ", "\n").replace("/", "\n/")
        out.add_column(heading, justify="left" if name == "model" else "right", overflow="fold")
    settings = RichTable.grid(padding=(0, 1))
    settings.add_column(justify="right")
    for line in lines:
        line["model"], _, variant = line["model"].partition("\n")
        out.add_row(*(line[name] for name in shown))
        if variant:
            settings.add_row(f"#{line['#']}", Text(variant))  # as text: augment=[flip] is no markup
    return Group(out, *([settings] if settings.rows else []), Text(caption(table), style="dim"))


def to_markdown(all_tables: Sequence[Table], effects: Sequence[Sequence[Effect]]) -> str:
    """One section a table, with the ``effects`` found in it."""
    lines = ["# Leaderboard", ""]
    for table, found in zip(all_tables, effects, strict=True):
        lines += [f"## {table.title}", "", section(table)]
        if found:
            lines += ["### Ablations", "", effects_section(table, found)]
    return "\n".join(lines)


def section(table: Table) -> str:
    """A table in Markdown, with what its numbers are."""
    text, cells = caption(table), _lines(table)
    lines = markdown.table([*cells[0]], [[*line.values()] for line in cells], left=["model"])
    return "\n".join([f"{text[0].upper()}{text[1:]}.", "", *lines, ""])


EFFECTS = ("model", "change", "n", "test top-1 before", "test top-1 after", "difference", "95 % interval", "p")
EFFECTS_NOTE = (
    "Test top-1 in %; differences in percentage points. Intervals are Student's t intervals over seeds and images, not "
    "corrected for multiple comparisons; between single runs they are widened to those of the exact test, where these "
    "are wider. p: probability of a difference at least this large if there were none, "
    "Holm-corrected for the number of rows; from the same Student's t or, between single runs (n = 1), from McNemar's "
    "exact test, which, like the interval, covers these two trained networks only, not other seeds; against several "
    "runs, a single one is taken to vary as they do. Settings: each row is compared with the best row of its network, "
    "by {ranked_by}, that differs from it in one choice; an optimizer comes with the learning rate and weight decay it "
    "ran with."
)
CHOSEN_ON_TEST = (
    " There are no validation images: which setting is the better was decided on the test images, and is not accounted "
    "for in interval and p."
)


def effects_section(table: Table, effects: Sequence[Effect]) -> str:
    """The effects found in a table, in Markdown, with what the numbers are."""
    if not effects:
        return "No two rows differ in exactly one choice.\n"
    rows = []
    named = [(pair.without.model, pair.what) for pair, *_ in effects]
    for pair, difference, interval, p in effects:
        alone = named.count((pair.without.model, pair.what)) == 1
        sizes = dict.fromkeys((pair.without.n, pair.with_it.n))  # of before and after
        cells = [
            pair.without.model if alone else f"{pair.without.model}\n{pair.without.variant}",
            pair.what,
            ", ".join(map(str, sizes)),
            percent(pair.without.stats["test_top1"]),
            percent(pair.with_it.stats["test_top1"]),
            f"{100 * difference:+.1f}",
            "–" if interval is None else f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}",
            "–" if p is None else f"{p:.2f}" if p >= 0.1 else f"{p:.4f}" if p >= 0.0001 else "< 0.0001",
        ]
        rows.append(cells)
    validated = table.ranked_by == "val_top1"
    note = EFFECTS_NOTE.format(ranked_by="validation top-1" if validated else "test top-1")
    note += "" if validated else CHOSEN_ON_TEST
    return "\n".join([note, "", *markdown.table(EFFECTS, rows, left=["model", "change"]), ""])


BEGIN = r"<!-- (leaderboard|ablations): (\S+) (\S+) -->\n"
MARKER = re.compile(rf"({BEGIN})(?:(?!{BEGIN}).)*?(<!-- end -->)", re.DOTALL)
"""``<!-- leaderboard: <data set> <protocol> -->`` or ``ablations``, and ``<!-- end -->``; between goes a table."""

Sections = dict[tuple[str, str, str], str]
"""(``leaderboard`` or ``ablations``, data set, protocol) → Markdown."""


def sections(all_tables: Sequence[Table], effects: Sequence[Sequence[Effect]]) -> Sections:
    """What may go between markers."""
    return {
        (kind, table.dataset, table.protocol): text
        for table, found in zip(all_tables, effects, strict=True)
        for kind, text in (("leaderboard", section(table)), ("ablations", effects_section(table, found)))
    }


def marked(text: str, made: Sections) -> bool:
    """Whether ``text`` has markers for one of the sections.

    Raises:
        ValueError: such a marker has no ``<!-- end -->`` of its own.
    """
    closed = {match.start() for match in MARKER.finditer(text)}
    for begin in re.finditer(BEGIN, text):
        if begin.start() not in closed and begin.groups() in made:
            raise ValueError(f"{begin[0].strip()} has no <!-- end --> of its own")
    return any((match[2], match[3], match[4]) in made for match in MARKER.finditer(text))


def inject(text: str, made: Sections) -> str:
    """``text`` with the sections between the markers that name them; those of other data sets are left alone."""

    def filled(match: re.Match[str]) -> str:
        inside = made.get((match[2], match[3], match[4]))
        return match[0] if inside is None else f"{match[1]}\n{inside}\n{match[match.re.groups]}"

    return MARKER.sub(filled, text)


def to_csv(all_tables: Sequence[Table]) -> str:
    """One line a row of any table, numbers in full: accuracies as fractions, memory in bytes."""
    names = ["val_top1", "val_top5", "test_top1", "test_top5", "test_class_mean", *MEASURES]
    header = ["dataset", "protocol", "rank", "model", "variant", "n", "params", "macs"]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    tested = ["test_top1_low", "test_top1_high", "p_like_first"]
    out.writerow(header + [f"{name}{part}" for name in names for part in ("", "_std")] + tested)
    for table in all_tables:
        for row in table.rows:
            numbers: list[Any] = []
            for name in names:
                stat = row.stats.get(name)
                numbers += [None, None] if stat is None else [stat.mean, stat.std]
            head = [table.dataset, table.protocol, row.rank, row.model, row.variant, row.n, row.params, row.macs]
            out.writerow([*head, *numbers, *(row.interval or (None, None)), row.p])
    return text.getvalue()
