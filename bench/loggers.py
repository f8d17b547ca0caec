"""Loggers in addition to metrics.csv: optional, all created from the same description of the run."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from torch import nn

from bench import console, weights_biases
from bench.config import need
from bench.errors import ConfigError
from bench.files import expanded, write_atomically
from bench.record import RunRecord
from bench.reporting.predictions import MISTAKES, PREDICTIONS
from bench.rules import SWITCH, Rule, check_keys, check_value, choice, whole
from bench.store import RECORD
from bench.weights_biases import wandb

FILES = ("config.yaml", "metrics.csv", PREDICTIONS, MISTAKES)
"""Files that are uploaded with a record."""


@dataclass(frozen=True)
class RunInfo:
    """What a logger knows about the run; ``group``: the sweep's name, None outside a sweep."""

    run_id: str
    group: str | None
    tags: tuple[str, ...]
    config: dict[str, Any]
    workspace: Path


RULES: dict[str, Rule] = {
    "mode": choice("online", "offline", "disabled"),
    "gradients": SWITCH,
    "images": whole(0),
}


def check(settings: Mapping[str, Any]) -> None:
    """Check a logger's configuration.

    Raises:
        ImportError: there is no such logger.
        ConfigError: its package is not installed, a setting is missing, unknown, or has a value that is not allowed.
    """
    target = get_object(str(settings.get("_target_")))
    own = {key: value for key, value in settings.items() if not key.startswith("_")}
    if target not in (none, tensorboard, mlflow, wandb):  # the user's own
        if not settings.get("_partial_"):
            raise ConfigError("logger._partial_: must be true, as the logger is made of a bench.loggers.RunInfo")
        try:
            inspect.signature(target).bind(None, **own)  # the RunInfo comes first
        except TypeError as error:
            raise ConfigError(f"logger: {settings['_target_']} of a bench.loggers.RunInfo: {error}") from error
        return
    name = target.__name__
    if target is not none:
        need(f"logger={name}", name, name)
    _, *known = inspect.signature(target).parameters
    check_keys("logger", own, known or ("none",))
    for key in known:
        if key not in own:
            raise ConfigError(f"logger.{key}: must be set, as logger.{key}=…")
        if key in RULES:
            check_value(f"logger.{key}", own[key], RULES[key])


def none(run: RunInfo) -> None:
    """No logger; metrics.csv is always written."""


def tensorboard(run: RunInfo) -> Logger:
    """TensorBoard event files in the run's directory."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(run.workspace, name="", version="tensorboard")


def mlflow(run: RunInfo, experiment: str, tracking_uri: str | None, folder: str) -> Logger:
    """MLflow, one run per cell: at ``tracking_uri``, at ``MLFLOW_TRACKING_URI``, which may have a password and is not
    recorded, or else in the database ``folder``/mlflow.db.
    """
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = expanded(folder, "logger.folder").absolute()
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = server or f"sqlite:///{place / 'mlflow.db'}"
    # a cell that is resumed with the same server or database stays one run
    kept = run.workspace / f"mlflow_id-{hashlib.sha256(uri.encode()).hexdigest()[:10]}"
    # the first process creates the database and the experiment
    with warnings.catch_warnings(), FileLock(place / "mlflow.lock"):
        warnings.filterwarnings("ignore", message=".*loader strategy is deprecated")  # inside MLflow
        client = MlflowClient(uri)
        new = not (kept.exists() and _goes_on(client, kept.read_text()))
        logger = MLFlowLogger(
            experiment_name=experiment,
            run_name=run.run_id,
            run_id=None if new else kept.read_text(),
            tracking_uri=uri,
            artifact_location=None if server else (place / "mlflow").as_uri(),
            tags={"sweep": run.group or "", "model": run.tags[0], "data": run.tags[1]},
        )
        assert logger.run_id is not None  # accessing it starts the run
    write_atomically(kept, logger.run_id)
    if new:  # MLflow rejects changed settings, and a cell may resume with different progress or paths
        logger.log_hyperparams(run.config)
    return logger


def _goes_on(client: Any, run_id: str) -> bool:
    """Whether a run of MLflow is still there; it is then shown as running again."""
    from mlflow.exceptions import MlflowException

    try:
        if client.get_run(run_id).info.lifecycle_stage != "active":  # deleted
            return False
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    client.update_run(run_id, status="RUNNING")
    return True


def watch(logger: Logger | None, resolved: Mapping[str, Any], model: nn.Module, steps: int) -> None:
    """Let W&B log the gradients, if configured, once per epoch of ``steps`` steps."""
    if isinstance(logger, WandbLogger) and resolved["logger"].get("gradients"):
        logger.watch(model, log="gradients", log_freq=steps, log_graph=False)


def forgiving(logger: Logger) -> Logger:
    """The logger, which at its first error says so and logs no more, where it would have ended the training."""
    lost = False

    def guarded(method: Callable[..., Any], again: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal lost
            if again or not lost:  # it may wait for minutes each time
                with console.telling(_name(logger)):
                    return method(*arguments, **named)
                lost = True
            return None

        return call

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, guarded(getattr(logger, name), again=name == "finalize"))
    return logger


def _name(logger: Logger) -> str:
    return type(logger).__name__.removesuffix("Logger")


def conclude(
    logger: Logger | None,
    record: RunRecord,
    work: Path,
    resolved: Mapping[str, Any],
    pixels: np.ndarray,
    test: np.ndarray,
) -> None:
    """Pass the record to the logger, if there is one: its numbers as the run's summary, and its files in ``work``.

    W&B also gets the confusion matrix and a table of the hardest mistakes on the test images, which are at the
    positions ``test`` (n,) of ``pixels``, (N, S, S, C) uint8. What goes wrong is told, and does not fail the run.
    """
    if logger is None:
        return
    numbers = {f"{split}/{name}": value for split, values in record.metrics.items() for name, value in values.items()}
    numbers |= {name: value for name, value in vars(record).items() if isinstance(value, int | float)}
    files = [work / name for name in FILES if (work / name).exists()]
    with console.telling(_name(logger)):
        if isinstance(logger, WandbLogger):
            images = resolved["logger"].get("images", 0)  # a logger of one's own may not know it
            weights_biases.conclude(logger.experiment, record, numbers, files, images, pixels, test)
            return
        logger.log_metrics({f"summary/{name}": value for name, value in numbers.items()})
        if isinstance(logger, MLFlowLogger):
            client, run_id = logger.experiment, logger.run_id
            client.log_text(run_id, record.to_json(), RECORD)
            for file in files:
                client.log_artifact(run_id, str(file))
