"""Pairs of leaderboard rows that differ in exactly one choice, and its effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.record import RunRecord
from bench.reporting import stats
from bench.reporting.leaderboard import Row, Table
from bench.reporting.predictions import Predictions, same_samples
from bench.reporting.settings import Settings, settings_of, shown, value_of
from bench.reporting.stats import Interval

BATCH_NORM, HEADS = "batch norm", "auxiliary heads"
AUX_HEADS = "model.net.aux_heads"
UNTOLD = ("model.name", "model.twin", "model.net.batch_norm")
"""Settings in which a network and its variant with batch norm differ."""


class Pair(NamedTuple):
    """``what`` is ``batch norm``, with the learning rates if they differ, ``auxiliary heads``, or a setting and its two
    values.
    """

    what: str
    without: Row
    with_it: Row

    @property
    def switched(self) -> bool:
        """Whether it is something to have or not, rather than one of two values."""
        return self.what.startswith((BATCH_NORM, HEADS))


class Effect(NamedTuple):
    """For a pair: the ``difference`` of mean test top-1, a fraction; its ``interval`` over seeds and samples;
    ``p``, by :func:`stats.compare`, Holm-corrected over the table. Both are None without predictions.
    """

    pair: Pair
    difference: float
    interval: Interval | None
    p: float | None


def effects(table: Table, records: Sequence[RunRecord], predictions: Mapping[str, Predictions]) -> list[Effect]:
    """The effect of each pair's choice, in the order of :func:`pairs`."""
    found = pairs(table, records)
    answers = [_answers(pair, predictions) for pair in found]
    tested = [i for i, both in enumerate(answers) if both is not None]
    p_values = dict(zip(tested, stats.holm([stats.compare(*answers[i]) for i in tested]), strict=True))  # type: ignore[misc]
    return [
        Effect(
            pair,
            pair.with_it.stats["test_top1"].mean - pair.without.stats["test_top1"].mean,
            None if both is None else stats.difference(*both),
            p_values.get(i),
        )
        for i, (pair, both) in enumerate(zip(found, answers, strict=True))
    ]


def _answers(pair: Pair, predictions: Mapping[str, Predictions]) -> tuple[np.ndarray, np.ndarray] | None:
    """Which samples were classified correctly, (seeds, samples) booleans, with and without it; for the same samples."""
    names = [*pair.with_it.run_ids, *pair.without.run_ids]
    there = [predictions[name] for name in names if name in predictions]
    if len(there) < len(names) or not same_samples(there):
        return None
    correct = np.stack([one.correct for one in there])
    return correct[: pair.with_it.n], correct[pair.with_it.n :]


def pairs(table: Table, records: Sequence[RunRecord]) -> list[Pair]:
    """By rank: rows ``x`` and ``x_bn`` with the same recipe; rows that differ only in auxiliary heads; and each row
    with the first row of its network that differs from it in one choice.

    With batch norm a network may have another learning rate, if both have that of their configuration.
    """
    by_id = {record.run_id: record for record in records}
    settings = [settings_of(by_id[row.run_ids[0]]) for row in table.rows]
    found = []
    for i, without in enumerate(table.rows):
        for j, with_it in enumerate(table.rows):
            if settings[i].get(AUX_HEADS) is False and settings[j].get(AUX_HEADS) is True:
                if _apart(settings[i], AUX_HEADS) == _apart(settings[j], AUX_HEADS):
                    found.append(Pair(HEADS, without, with_it))
            elif with_it.model == f"{without.model}_bn" and _same_recipe(settings[i], settings[j]):
                rates = [settings[place].get("optimizer.lr") for place in (i, j)]
                norm = BATCH_NORM if rates[0] == rates[1] else f"{BATCH_NORM}, optimizer.lr={rates[0]} → {rates[1]}"
                found.append(Pair(norm, without, with_it))
        for better, own in zip(table.rows[:i], settings, strict=False):
            what = _choice(settings[i], own) if better.model == without.model else None
            if what is not None:
                found.append(Pair(what, without, better))
                break
    return found


def _choice(before: Settings, after: Settings) -> str | None:
    """The one choice in which settings differ, ``loss.label_smoothing=0.0 → 0.1`` or ``augment: without flip → with``;
    None if there are more.

    Adding, removing or replacing one augmentation with its settings is one choice, and so is an optimizer, a schedule
    or a normalisation with its settings.
    """
    differing = {
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and value_of(before, key) != value_of(after, key)
    }
    gone: set[str] = set()
    new: set[str] = set()
    if "augment" in differing:
        gone, new = (set(one["augment"]) - set(other["augment"]) for one, other in ((before, after), (after, before)))
        if max(len(gone), len(new)) > 1:
            return None
        differing = {key for key in differing if not key.startswith(tuple(f"augment.{name}." for name in gone | new))}
    for name in ("optimizer", "scheduler", "augment/normalize"):
        if name in differing:
            differing = {key for key in differing if not key.startswith(f"{name.replace('/', '.')}.")}
    if len(differing) != 1 or AUX_HEADS in differing:
        return None
    (key,) = differing
    if key == "augment" and (gone or new):
        old, other = "".join(gone), "".join(new)
        if gone and new:
            return f"augment: {old} → {other}"
        return f"augment: with {old} → without" if gone else f"augment: without {other} → with"
    return f"{key}={shown(value_of(before, key))} → {shown(value_of(after, key))}"


def _apart(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


def _same_recipe(one: Settings, other: Settings) -> bool:
    """Whether they differ in batch norm alone; the learning rates may be those of the two networks' configurations."""

    def told(settings: Settings) -> Settings:
        skipped = (*UNTOLD, "optimizer.lr")
        return {key: value for key, value in settings.items() if key not in skipped and not key.startswith("model.lr.")}

    rates = [settings.get("optimizer.lr") for settings in (one, other)]
    own = [settings.get(f"model.lr.{settings.get('optimizer')}") for settings in (one, other)]
    return told(one) == told(other) and (rates[0] == rates[1] or rates == own)
