"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str]) -> list[str]:
    """The lines of a table; the columns named in ``left`` are aligned left, the others, of numbers, right."""
    bar = "|" + "|".join("---" if name in left else "--:" for name in header) + "|"
    head, *body = map(_line, (header, *rows))
    return [head, bar, *body]


def _line(cells: Sequence[str]) -> str:
    # a bar would end the cell, a line break the row
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", "<br>") for cell in cells) + " |"
