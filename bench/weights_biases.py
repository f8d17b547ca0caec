"""Weights & Biases: starting, finishing and filling its runs; see bench.loggers."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import get_object
from lightning.pytorch.loggers import Logger

from bench import console
from bench.errors import ConfigError
from bench.files import write_atomically
from bench.queues import SERVICE
from bench.record import RunRecord
from bench.reporting import predictions, stats
from bench.store import RECORD

if TYPE_CHECKING:
    from bench.loggers import RunInfo

ID = "wandb_id"
"""In the run's directory: which of W&B's runs it is."""
CELLS = ("Actual", "Predicted", "nPredictions")
"""Column names of W&B's confusion matrix chart."""
REFUSED = re.compile(r"error:? 4(?!08|29)\d\d")
"""In W&B's messages of what it refuses; others are of its not being reached, or being busy."""
MOST_CELLS = 10_000
"""Maximum rows of a W&B table that a chart shows."""


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
            with console.telling("W&B"):
                run.finish(exit_code=failed)


def _open() -> Any:
    """The run that this process logs to W&B now; None if there is none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def conclude(
    run: Any,
    record: RunRecord,
    numbers: Mapping[str, Any],
    files: list[Path],
    images: int,
    pixels: np.ndarray,
    test: np.ndarray,
) -> None:
    """Give a run the ``numbers`` as its summary, the confusion matrix, a table of the hardest mistakes, so many
    ``images``, and an artifact of the record and ``files``; images are those of ``loggers.conclude``.
    """
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
