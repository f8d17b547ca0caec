"""Loggers in addition to metrics.csv: optional, all created from the same description of the run."""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import re
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger
from torch import nn

from bench import console
from bench.config import need
from bench.errors import ConfigError
from bench.queues import SERVICE
from bench.record import RunRecord
from bench.reporting import predictions, stats
from bench.reporting.predictions import MISTAKES, PREDICTIONS
from bench.rules import SWITCH, Rule, check_keys, check_value, choice, whole
from bench.store import RECORD, expanded, write_atomically

FILES = ("config.yaml", "metrics.csv", PREDICTIONS, MISTAKES)
"""Files that are uploaded with a record."""
ID = "wandb_id"
"""In the run's directory: which of W&B's runs it is."""
CELLS = ("Actual", "Predicted", "nPredictions")
"""Column names of W&B's confusion matrix chart."""
REFUSED = re.compile(r"error:? 4(?!08|29)\d\d")
"""In W&B's messages of what it refuses; others are of its not being reached, or being busy."""
MOST_CELLS = 10_000
"""Maximum rows of a W&B table that a chart shows."""


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
    if target not in (none, tensorboard, mlflow, wandb):  # the user's own
        return
    name = target.__name__
    if target is not none:
        need(f"logger={name}", name, name)
    _, *known = inspect.signature(target).parameters
    own = {key: value for key, value in settings.items() if not key.startswith("_")}
    check_keys("logger", own, known or ("none",))
    for key in known:
        if key not in own:
            raise ConfigError(f"logger.{key}: must be set, as logger.{key}=…")
        if key in RULES:
            check_value(f"logger.{key}", own[key], RULES[key])


def log_in(settings: Mapping[str, Any]) -> None:
    """Let W&B, if that is the logger and online, look for its API key, or ask for it in a terminal.

    Raises:
        ConfigError: there is none.
    """
    if get_object(str(settings.get("_target_"))) is not wandb or settings["mode"] != "online":
        return
    import wandb as api

    if api.run is not None:  # the caller's, who is logged in
        return
    running = SERVICE in os.environ
    try:
        with _mistakes(api):
            api.login(verify=False)  # the server may be down
    finally:
        if not running:  # it has started W&B's service, which other machines would look for
            _stop_service(api)


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
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = expanded(folder, "logger.folder").absolute()
    server = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = server or f"sqlite:///{place / 'mlflow.db'}"
    # a cell that is resumed with the same server or database stays one run
    kept = run.workspace / f"mlflow_id-{hashlib.sha256(uri.encode()).hexdigest()[:10]}"
    with warnings.catch_warnings(), FileLock(place / "mlflow.lock"):  # the first process creates the database
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


def wandb(run: RunInfo, project: str, entity: str | None, mode: Any, gradients: bool, images: int) -> Logger:
    """Weights & Biases, one run per cell, in the run's directory; ``mode`` is online, offline or disabled.

    ``gradients``: log a histogram of each parameter's gradients per epoch. ``images``: number of hardest mistakes in
    the table of predictions. A run that the process has open is finished. If W&B cannot be reached, the run is logged
    offline.

    Raises:
        ConfigError: W&B refuses the settings or the API key.
    """
    import wandb as api
    from lightning.pytorch.loggers import WandbLogger

    kept = run.workspace / ID  # a resumed cell stays one run

    def started(mode: Any, again: bool) -> Any:
        if not again:
            write_atomically(kept, uuid.uuid4().hex[:8])
        return api.init(
            project=project, entity=entity, mode=mode, dir=run.workspace, name=run.run_id,
            id=kept.read_text(), resume=None if mode == "disabled" else "allow",  # also of what is sent later
            group=run.group, tags=run.tags, config=run.config, reinit="finish_previous",
            settings=api.Settings(silent=True, console="off"),
        )  # fmt: skip

    with _mistakes(api):
        try:
            experiment = started(mode, again=kept.exists())
        except api.errors.CommError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if "previously created and deleted" in reason:
                console.say(f"{run.run_id}: its run was deleted from W&B, which gets a new one")
                experiment = started(mode, again=False)
            elif isinstance(error, api.errors.AuthenticationError) or REFUSED.search(str(error)):
                raise
            else:
                console.say(f"W&B: {reason}; {run.run_id} is logged offline, for `wandb sync`")
                _stop_service(api)  # it has the run that it could not start, and would not start it again
                experiment = started("offline", again=True)
    return WandbLogger(experiment=experiment)


def _stop_service(api: Any) -> None:
    """End W&B's process on this machine, if this process has started it."""
    with suppress(SystemExit):  # with which W&B ends if its process fails
        api.teardown()


@contextmanager
def _mistakes(api: Any) -> Iterator[None]:
    """Turn W&B's complaints of settings and keys into ConfigError."""
    try:
        yield
    except (api.errors.UsageError, api.errors.CommError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"logger=wandb: {reason}, or use logger.mode=offline") from error


@contextmanager
def finishing() -> Iterator[None]:
    """Finish the W&B run, if the block starts one, however it ends: else the next cell's metrics would join it."""
    failed, before = 1, _open()
    try:
        yield
        failed = 0
    finally:
        if (run := _open()) is not None and run is not before:
            with telling("W&B"):
                run.finish(exit_code=failed)


def _open() -> Any:
    """The run that this process logs to W&B now; None if there is none."""
    return getattr(sys.modules.get("wandb"), "run", None)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say that a logger failed at the end, instead of raising it: what is trained and tested is done."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        console.say(f"{what} has not got all of the run: {type(error).__name__}: {reason}")


def watch(logger: Logger | None, resolved: Mapping[str, Any], model: nn.Module, steps: int) -> None:
    """Let W&B log the gradients, if configured, once per epoch of ``steps`` steps."""
    if logger is not None and resolved["logger"].get("gradients"):
        logger.watch(model, log="gradients", log_freq=steps, log_graph=False)  # type: ignore[attr-defined]


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
    kind = type(logger).__name__
    with telling(kind.removesuffix("Logger")):
        if kind == "WandbLogger":
            images = resolved["logger"]["images"]
            _conclude_wandb(logger.experiment, record, numbers, files, images, pixels, test)  # type: ignore[attr-defined]
            return
        logger.log_metrics({f"summary/{name}": value for name, value in numbers.items()})
        if kind == "MLFlowLogger":
            client, run_id = logger.experiment, logger.run_id  # type: ignore[attr-defined]
            client.log_text(run_id, record.to_json(), RECORD)
            for file in files:
                client.log_artifact(run_id, str(file))


def _conclude_wandb(
    run: Any,
    record: RunRecord,
    numbers: Mapping[str, Any],
    files: list[Path],
    images: int,
    pixels: np.ndarray,
    test: np.ndarray,
) -> None:
    import wandb as api

    run.summary.update(dict(numbers))
    told = predictions.load(files[0].parent)
    assert told is not None
    matrix = stats.confusion(told.labels, told.predicted, len(told.classes))
    pairs = np.argwhere(matrix >= 0 if matrix.size <= MOST_CELLS else matrix > 0)
    rows: list[Any] = [[str(told.classes[i]), str(told.classes[j]), int(matrix[i, j])] for i, j in pairs]
    table = api.Table(columns=list(CELLS), data=rows)
    chart = api.plot_table("wandb/confusion_matrix/v1", table, {name: name for name in CELLS})
    mistakes = api.Table(columns=["id", "image", "class", "predicted", "confidence"])
    for i in told.hardest(images):
        image = pixels[test[i]]
        classes = (str(told.classes[label[i]]) for label in (told.labels, told.predicted))
        shown = api.Image(image if image.shape[-1] == 3 else image[..., 0])
        mistakes.add_data(str(told.ids[i]), shown, *classes, float(told.confidence[i]))
    run.log({"test/confusion": chart, "test/mistakes": mistakes})
    artifact = api.Artifact(record.run_id, type="record", metadata={"git_sha": record.git_sha})
    with artifact.new_file(RECORD) as file:
        file.write(record.to_json())
    for path in files:
        artifact.add_file(str(path))
    run.log_artifact(artifact)
