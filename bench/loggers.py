"""Loggers beside metrics.csv: extras that are all made with the same argument about the run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from bench.config import ConfigError
from bench.store import write_atomically


@dataclass(frozen=True)
class RunInfo:
    """What a logger is told of the run: ``group`` is the sweep's name, None outside one."""

    run_id: str
    group: str | None
    tags: tuple[str, ...]
    config: dict[str, Any]
    workspace: Path


def none(run: RunInfo) -> None:
    """No logger; metrics.csv is written in any case."""


def tensorboard(run: RunInfo) -> Logger:
    """TensorBoard event files in the run's directory."""
    _need("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(run.workspace, name="", version="tensorboard")


def wandb(run: RunInfo, project: str, entity: str | None, mode: Any) -> Logger:
    """Weights & Biases, one run a cell, in the run's directory; ``mode`` is online, offline or disabled.

    Raises:
        ConfigError: ``mode`` is another, or it is online and there is no API key.
    """
    modes = ("online", "offline", "disabled")
    if mode not in modes:
        raise ConfigError(f"logger.mode={mode}: choose one of {', '.join(modes)}")
    _need("wandb")
    import wandb as api
    from lightning.pytorch.loggers import WandbLogger

    kept = run.workspace / "wandb_id"  # a cell that is gone on with is one run
    if not kept.exists():
        write_atomically(kept, uuid.uuid4().hex[:8])
    try:
        experiment = api.init(
            project=project, entity=entity, mode=mode, dir=run.workspace, name=run.run_id,
            id=kept.read_text(), resume="allow" if mode == "online" else None,
            group=run.group, tags=run.tags, config=run.config, reinit="finish_previous",
            settings=api.Settings(silent=True, console="off"),
        )  # fmt: skip
    except api.errors.UsageError as error:
        raise ConfigError(f"logger=wandb: {str(error).rstrip('.')}, or use logger.mode=offline") from error
    return WandbLogger(experiment=experiment)


def _need(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"logger={package}: not installed; pip install 'convbench[{package}]'")


@contextmanager
def finishing() -> Iterator[None]:
    """End the W&B run, if one was begun, however the block is left: else the next cell's metrics join it."""
    import sys

    failed = 1
    try:
        yield
        failed = 0
    finally:
        if (api := sys.modules.get("wandb")) is not None and api.run is not None:
            api.finish(exit_code=failed)


def summarise(logger: Logger | None, results: Mapping[str, Any]) -> None:
    """Hand the record's numbers to the logger, if there is one, as the run's summary."""
    if logger is None:
        return
    numbers = {
        f"{split}/{name}": value for split, values in results["metrics"].items() for name, value in values.items()
    }
    numbers |= {name: value for name, value in results.items() if isinstance(value, int | float)}
    summary = getattr(getattr(logger, "experiment", None), "summary", None)
    if summary is not None:  # W&B has one
        summary.update(numbers)
    else:
        logger.log_metrics({f"summary/{name}": value for name, value in numbers.items()})
