"""The record of one cell: its name, configuration, results and environment."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

SCHEMA_VERSION = 2

Status = Literal["ok", "failed", "interrupted"]
Metrics = dict[str, dict[str, float]]
"""Split (train, val, test) → top1, top5 (fractions in [0, 1]) and loss (mean cross entropy, nats)."""

NOT_IDENTITY = ("paths", "logger", "force", "progress", "sweep")
"""Top-level settings that change no result and are therefore not part of a run's identity."""

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The form of a run id, which names a directory."""

NOT_DECISIVE = {
    "augment.normalize": ("cache_dir",),
    "data": ("device",),
    "data.source": ("root", "download"),
    "trainer": ("accelerator", "checkpoint_minutes", "num_sanity_val_steps"),
}
"""Nested settings that say where the images are or where a run takes place, not what it is."""


USUAL = (("devices", 1), ("compile", "auto"), ("ema", None), ("check_val_every_n_epoch", 1))
"""Trainer settings that are left out of the identity if they have this value. More devices make another run: each
process draws its own dropout.
"""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that determines the result."""

    def what(node: Mapping[str, Any], place: str) -> dict[str, Any]:
        kept = {key: value for key, value in node.items() if key not in NOT_DECISIVE.get(place, ())}
        return {
            key: what(value, f"{place}.{key}" if place else key) if isinstance(value, Mapping) else value
            for key, value in kept.items()
        }

    if "trainer" in config:
        config = {**config, "trainer": {k: v for k, v in config["trainer"].items() if (k, v) not in USUAL}}
    data = config.get("data", {})
    if "train_image_size" in data and data["train_image_size"] == data["image_size"]:  # the usual, too
        config = {**config, "data": {k: v for k, v in data.items() if k != "train_image_size"}}
    kept = what({key: value for key, value in config.items() if key not in NOT_IDENTITY}, "")
    if "augment" in kept:  # their order matters too, and would be lost when keys are sorted
        kept["augment"] = list(kept["augment"].items())
    return kept


def protocol(config: Mapping[str, Any]) -> str:
    """The name of the split into training, validation and test images; with ``data.val_size``, if that draws validation
    images, and for a folder with the start of the hash of its images: others are another protocol.
    """
    data = config["data"]
    size, content = data["val_size"], data.get("content")
    return data["protocol"] + ("" if size is None else f"-val{size}") + ("" if content is None else f"-{content[:6]}")


def run_id(config: Mapping[str, Any]) -> str:
    """``<dataset>-<model>-s<seed>-<10 hex>``: the name of the run that a resolved configuration describes."""
    digest = hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:10]
    name = f"{config['data']['name']}-{config['model']['name']}-s{config['seed']}-{digest}"
    return name.replace("/", "-")


@dataclass(frozen=True)
class RunRecord:
    """One trained (or failed) cell. Fields unknown for a failed cell are None.

    Attributes:
        run_id: the cell's name and directory.
        status: ``ok``, ``failed`` or ``interrupted``.
        error: one line that says why a cell is not ok.
        protocol: which images train, validate and test; results of different protocols never share a table.
        epochs: epochs trained.
        selected_epoch: the epoch, counted from 1, whose weights were tested: the best on validation data.
        train_size, val_size, test_size: samples.
        skipped_images: images that could not be read and were left out.
        metrics: of the selected epoch; ``train`` as measured while training (augmented images, dropout on).
        params, macs: of the network as evaluated, for one image; auxiliary heads do not count.
        train_images_per_s: median over epochs, validation excluded.
        fit_seconds: wall time of training and validation.
        peak_memory_bytes: of the GPU's allocator, or resident memory of the process; of several, the sum.
        config: the resolved configuration.
        hardware, versions, git_sha, precision, device: what trained it, or its last epochs if it was resumed elsewhere;
            ``versions`` have the start of the hash of modules of the user's own, too.
        earlier: these five of whatever else trained it before it was resumed, in the order of the last steps of each.
    """

    run_id: str
    status: Status
    model: str
    dataset: str
    protocol: str
    seed: int
    image_size: int
    created_at: str
    config: dict[str, Any]
    error: str | None = None
    epochs: int | None = None
    selected_epoch: int | None = None
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    skipped_images: int | None = None
    metrics: Metrics = field(default_factory=dict)
    params: int | None = None
    macs: int | None = None
    train_images_per_s: float | None = None
    fit_seconds: float | None = None
    peak_memory_bytes: int | None = None
    precision: str | None = None
    device: str | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_sha: str | None = None
    earlier: list[dict[str, Any]] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The record as JSON without NaN; keys keep their order, which matters for augmentations."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read a record.

        Raises:
            ValueError: not JSON, another schema version, missing or unknown fields, or an invalid run_id.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
            version = values.get("schema_version") if isinstance(values, dict) else None
            raise ValueError(f"schema_version={version}: this program reads version {SCHEMA_VERSION}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"unknown fields {', '.join(unknown)}")
        if not RUN_ID.fullmatch(str(values.get("run_id"))):  # it names a folder
            raise ValueError(f"run_id={values.get('run_id')}: is not a valid run id")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"fields are missing: {error}") from error
