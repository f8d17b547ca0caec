"""The machines that runs were trained on, as a table tells them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.record import RunRecord

COSTS = "images/s, fit s and peak MiB are not comparable"
OTHER_MACHINES = f"different machines, numbers of cores, versions or precisions: {COSTS}"
MOST = 3
"""Machines that a line tells, at most."""


def makers(record: RunRecord) -> list[RunRecord]:
    """The record as what trained it last would have it, and as each of those would that it was resumed from."""
    return [record, *(replace(record, **one) for one in record.earlier)]


def machines_of(rows: Mapping[str, Sequence[RunRecord]]) -> tuple[dict[str, str], str]:
    """What each of the ``rows``, by number, was trained on, ``2 cores of AMD EPYC (AVX512), PyTorch 2.14.1,
    bf16-mixed``, and all of that in a line: the most frequent, and which rows are from elsewhere.

    The line is OTHER_MACHINES if there are more machines than MOST, or if a row is from several or from one that is not
    fully known: such rows have no machine. Both are empty if it is not known at all.
    """

    def told(record: RunRecord) -> tuple[str, ...]:
        # those that the run has used: the first of those it saw
        used = record.config["trainer"]["devices"] if "cuda" in (record.device or "") else 0
        gpus = Counter((record.hardware.get("gpus") or [])[:used])
        threads = record.hardware.get("threads", record.hardware.get("cores"))
        cores = f"{threads} core{'s' * (threads != 1)} of {record.hardware.get('cpu')}"
        named = [f"{n} × {name}" for name, n in gpus.items()]
        return (cores, *named, f"PyTorch {record.versions.get('torch')}", str(record.precision))

    rows = {number: [maker for record in group for maker in makers(record)] for number, group in rows.items()}
    records = [record for group in rows.values() for record in group]
    if not all("cpu" in record.hardware and "torch" in record.versions for record in records):
        return {}, ""
    vectors: dict[tuple[str, ...], set[str | None]] = defaultdict(set)  # instructions, which old records lack
    for record in records:
        vectors[told(record)].add(record.hardware.get("cpu_capability"))

    def place(record: RunRecord) -> str | None:
        """None if it may be one of several of that name."""
        cores, *further = told(record)
        own, there = record.hardware.get("cpu_capability"), vectors[told(record)]
        several = len(there - {None}) > 1
        if several and own is None:
            return None
        return ", ".join([f"{cores} ({own})" if several or None not in there else cores, *further])

    places = {number: {place(record) for record in group} for number, group in rows.items()}
    alone = {number: there.pop() for number, there in places.items() if len(there) == 1}
    machines = {number: machine for number, machine in alone.items() if machine is not None}
    (usual, _), *others = Counter(machines.values()).most_common() or [("", 0)]
    if len(machines) < len(rows) or len(others) >= MOST:
        return machines, OTHER_MACHINES
    words = []
    for machine, n in others:
        numbers = [number for number, own in machines.items() if own == machine]
        words.append(f"row{'s' * (n > 1)} {', '.join(numbers)} on {machine}")
    return machines, "; ".join([usual, *words]) + (f", whose {COSTS}" if others else "")
