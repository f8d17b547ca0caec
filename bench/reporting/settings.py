"""The settings of runs: what decides a result, by dotted name, and what tells a table's rows apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.record import USUAL, RunRecord, identity

Settings = dict[str, Any]

SAME_SIZE = "${data.image_size}"
"""The size of training images where it is that of the others, whatever that is."""

CHOICES = ("augment.", "optimizer.", "scheduler.")
"""What the settings of an augmentation, an optimizer and a schedule begin with: other choices have other settings."""

STARTED_FROM = ("model.pretrained", "model.freeze")
"""Settings of runs that did not start from random weights, which a table always tells."""


def settings_of(record: RunRecord) -> Settings:
    """The settings that decide a result apart from the seed, by dotted name: optimizer and schedule by their name, the
    augmentations as a list, and the precision that ``auto`` chose.
    """
    nested = identity(record.config)
    nested.pop("seed", None)
    augment = dict(nested.pop("augment", []))
    normalize = augment.get("normalize", {}).get("_target_", "").rpartition(".")[2]
    settings = dict(_leaves(nested | {"augment": augment}))
    for name, value in USUAL:  # which an identity leaves out
        settings.setdefault(f"trainer.{name}", value)
    if not record.val_size:
        del settings["trainer.check_val_every_n_epoch"]
    side = settings.setdefault("data.train_image_size", SAME_SIZE)
    for name in ("num_classes", "in_channels", "image_size"):  # told by data
        settings.pop(f"model.net.{name}", None)
    for name in augment:  # told by data, too
        if settings.get(f"augment.{name}.size", ()) in (side, settings.get("data.image_size")):
            del settings[f"augment.{name}.size"]
    settings.pop("augment.normalize._target_", None)
    settings.pop("data.epochs", None)  # trainer.max_epochs are those that were trained
    asked = settings.pop("trainer.precision", None)
    settings["precision"] = "auto" if (asked, record.precision) == ("auto", "32-true") else record.precision  # TF32
    settings["augment"] = [name for name in augment if name != "normalize"]
    settings["augment/normalize"] = normalize
    for name in ("optimizer", "scheduler"):
        if (target := settings.pop(f"{name}._target_", None)) is not None:
            settings[name] = target.rpartition(".")[2].lower()
    return settings


def _leaves(node: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, node


def shown(value: Any) -> str:
    """As it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def value_of(settings: Settings, key: str) -> Any:
    """The value of a setting, SAME_SIZE as the number that it is; None where it is not set."""
    value = settings.get(key)
    return settings.get("data.image_size") if value == SAME_SIZE else value


def started_from(settings: Settings) -> Settings:
    """Of settings, those of a run that did not start from random weights; else none."""
    return {key: settings[key] for key in STARTED_FROM if settings.get(key) is not None}


def told_apart(rows: Sequence[tuple[str, Settings]]) -> tuple[list[str], str]:
    """Of each row, a model and its settings, those that tell it from the others, ``key=value`` each; and the values of
    such settings in the rows that tell none.

    A row tells what is not the table's most frequent value. Of what a model brings along, its network and its learning
    rate, it tells that in which it differs from another row of its model. Always that it did not start from random
    weights.
    """
    told: list[str] = []
    usual: Settings = {}
    for model, own in rows:
        keys = set(started_from(own))
        for key, value in own.items():
            # what others have not is of a choice that they have not made, whose name tells
            there = [(name, other) for name, other in rows if key in other or not key.startswith(CHOICES)]
            if key.startswith("model.") or key == "optimizer.lr":
                keys |= {key for name, other in there if name == model and other.get(key) != value}
            elif (frequent := _frequent([other.get(key) for _, other in there])) != [value]:
                keys.add(key)
                if frequent:
                    usual[key] = frequent[0]
        told.append(line({key: value_of(own, key) for key in keys & own.keys()}))
    return told, line(usual)


def line(settings: Settings) -> str:
    """``key=value`` each, by name."""
    return " ".join(f"{key}={shown(value)}" for key, value in sorted(settings.items()))


def _frequent(values: Sequence[Any]) -> list[Any]:
    """The value that occurs more often than any other; none where two lead."""
    counts = Counter(map(repr, values)).most_common(2)  # some are lists
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        return []
    return [next(value for value in values if repr(value) == counts[0][0])]
