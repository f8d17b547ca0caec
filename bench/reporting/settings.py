"""The settings of runs: those that affect results, by dotted name, and those that distinguish a table's rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.record import USUAL, RunRecord, identity
from bench.reporting.machines import makers

Settings = dict[str, Any]

SAME_SIZE = "${data.image_size}"
"""The size of training or of stored images if it is that of the images the network is given in validation."""

CHOICES = ("augment.", "optimizer.", "scheduler.")
"""Prefixes of the settings of an augmentation, optimizer or schedule: other choices have other settings."""

STARTED_FROM = ("model.pretrained", "model.freeze")
"""Settings of runs that did not start from random weights, which a table always shows."""


def settings_of(record: RunRecord) -> Settings:
    """The settings that affect the result, except the seed, by dotted name: optimizer and schedule by name, the
    augmentations as a list, and the precision that ``auto`` chose.
    """
    nested = identity(record.config)
    nested.pop("seed", None)
    augment = dict(nested.pop("augment", []))
    normalize = _short(augment.get("normalize", {}).get("_target_", ""))
    settings = dict(leaves(nested | {"augment": augment}))
    for name, value in USUAL:  # left out of identities
        settings.setdefault(f"trainer.{name}", value)
    if not record.val_size:
        del settings["trainer.check_val_every_n_epoch"]
    side = settings.setdefault("data.train_image_size", SAME_SIZE)
    if settings.get("data.decode_size") == settings.get("data.image_size"):
        settings["data.decode_size"] = SAME_SIZE
    for name in ("num_classes", "in_channels", "image_size"):  # given by data
        settings.pop(f"model.net.{name}", None)
    for name in augment:  # also given by data
        if settings.get(f"augment.{name}.size", ()) in (side, settings.get("data.image_size")):
            del settings[f"augment.{name}.size"]
    settings.pop("augment.normalize._target_", None)
    settings.pop("data.epochs", None)  # trainer.max_epochs is what was trained
    settings.pop("trainer.precision", None)  # of which the record has what it came to
    now, *before = (one.precision for one in makers(record))
    others = dict.fromkeys(one for one in before if one != now)
    settings["precision"] = ", then ".join(map(str, (*others, now))) if others else now
    settings["augment"] = [name for name in augment if name != "normalize"]
    settings["augment/normalize"] = normalize
    for name in ("optimizer", "scheduler"):
        if (target := settings.pop(f"{name}._target_", None)) is not None:
            settings[name] = _short(target).lower()
    return settings


def _short(target: str) -> str:
    """The name of a class of PyTorch's or this project's; others in full, as they may be of the same name."""
    return target.rpartition(".")[2] if target.startswith(("torch.", "bench.")) else target


def leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a nested mapping by dotted name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, node


def form(value: Any) -> str:
    """The same text for equal values, however their numbers were written: 0 and 0.0."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return json.dumps(plain(value), sort_keys=True)


def shown(value: Any) -> str:
    """A value as written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def value_of(settings: Settings, key: str) -> Any:
    """The value of a setting, with SAME_SIZE resolved to a number; None if it is not set."""
    value = settings.get(key)
    return settings.get("data.image_size") if value == SAME_SIZE else value


def started_from(settings: Settings) -> Settings:
    """The settings that say that a run did not start from random weights, if any."""
    return {key: settings[key] for key in STARTED_FROM if settings.get(key) is not None}


def told_apart(rows: Sequence[tuple[str, Settings]]) -> tuple[list[str], str]:
    """For each row, a model and its settings: those that distinguish it from the others, as ``key=value``; and the
    values of these settings in the rows that do not list them.

    A row lists values other than the table's most frequent one. For what comes with a model, its network and learning
    rate, it lists differences from other rows of the same model. A start from other than random weights is always
    listed.
    """
    told: list[str] = []
    usual: Settings = {}
    for model, own in rows:
        keys = set(started_from(own))
        for key, value in own.items():
            if len({form(value_of(other, key)) for _, other in rows}) == 1:  # one size, as image_size or as a number
                continue
            there = [(name, other) for name, other in rows if key in other or _same_choice(key, own, other)]
            if key.startswith("model.") or key == "optimizer.lr":
                keys |= {key for name, other in there if name == model and other.get(key) != value}
            elif key.startswith(CHOICES) and any(key not in other for _, other in there):
                keys.add(key)  # given beside those that the choice comes with
            elif (frequent := _frequent([other.get(key) for _, other in there])) != [value]:
                keys.add(key)
                if frequent:
                    usual[key] = _resolved(frequent[0], [other for _, other in there if other.get(key) == frequent[0]])
        told.append(line({key: value_of(own, key) for key in keys & own.keys()}))
    return told, line(usual)


def _resolved(value: Any, rows: Sequence[Settings]) -> Any:
    """The value, with SAME_SIZE as a number, or, where the rows that have it differ in that number, by name."""
    if value != SAME_SIZE:
        return value
    sizes = {row.get("data.image_size") for row in rows}
    return sizes.pop() if len(sizes) == 1 else "data.image_size"


def _same_choice(key: str, one: Settings, other: Settings) -> bool:
    """Whether the two have the same optimizer, schedule, normalisation or augmentation, whichever the key is of. If
    not, their names say so, and one may have settings that the other cannot have.
    """
    choice, _, name = key.partition(".")
    if choice not in ("augment", "optimizer", "scheduler"):
        return True
    if choice == "augment" and not name.startswith("normalize."):
        return name.partition(".")[0] in other["augment"]
    choice = "augment/normalize" if choice == "augment" else choice
    return one.get(choice) == other.get(choice)


def line(settings: Settings) -> str:
    """``key=value`` pairs, sorted by name."""
    return " ".join(f"{key}={shown(value)}" for key, value in sorted(settings.items()))


def _frequent(values: Sequence[Any]) -> list[Any]:
    """The most frequent value; none on a tie."""
    counts = Counter(map(form, values)).most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        return []
    return [next(value for value in values if form(value) == counts[0][0])]
