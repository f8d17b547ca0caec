"""Pairs of a leaderboard's rows that differ in one thing alone, and what it buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.record import RunRecord
from bench.reporting import stats
from bench.reporting.leaderboard import Row, Table, settings_of
from bench.reporting.predictions import Predictions, same_samples

AUX_HEADS = "model.net.aux_heads"
UNTOLD = ("model.name", "model.twin", "model.net.batch_norm")
"""Settings in which a network and its form with batch norm differ."""


class Pair(NamedTuple):
    """``what`` is ``batch norm`` or ``auxiliary heads``."""

    what: str
    without: Row
    with_it: Row


def pairs(table: Table, records: Sequence[RunRecord]) -> list[Pair]:
    """The rows ``x`` and ``x_bn`` with the same recipe, and such as differ in having auxiliary heads, by rank.

    With batch norm a network may have another learning rate, if both have that of their configuration.
    """
    by_id = {record.run_id: record for record in records}
    settings = [settings_of(by_id[row.run_ids[0]]) for row in table.rows]
    found = []
    for i, without in enumerate(table.rows):
        for j, with_it in enumerate(table.rows):
            if settings[i].get(AUX_HEADS) is False and settings[j].get(AUX_HEADS) is True:
                if _apart(settings[i], AUX_HEADS) == _apart(settings[j], AUX_HEADS):
                    found.append(Pair("auxiliary heads", without, with_it))
            elif with_it.model == f"{without.model}_bn" and _recipe(settings[i]) == _recipe(settings[j]):
                found.append(Pair("batch norm", without, with_it))
    return found


def _apart(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


def _recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings but for batch norm; a learning rate that is its network's own does not count."""
    rates = [value for key, value in settings.items() if key.startswith("model.lr.")]
    told = {key: value for key, value in settings.items() if key not in UNTOLD and not key.startswith("model.lr.")}
    return _apart(told, "optimizer.lr") if settings.get("optimizer.lr") in rates else told


def difference(pair: Pair, predictions: Mapping[str, Predictions]) -> tuple[float | None, float, float | None]:
    """The difference of mean test top-1, a fraction, between the ends of its bootstrap interval over seeds and
    samples, which are None where the predictions are not there.
    """
    middle = pair.with_it.stats["test_top1"].mean - pair.without.stats["test_top1"].mean
    names = [*pair.with_it.run_ids, *pair.without.run_ids]
    there = [predictions[name] for name in names if name in predictions]
    if len(there) < len(names) or not same_samples(there):
        return None, middle, None
    correct = np.stack([one.correct for one in there])
    low, high = stats.difference(correct[: pair.with_it.n], correct[pair.with_it.n :])
    return low, middle, high
