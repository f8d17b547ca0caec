"""The ``bench-dashboard`` command: a W&B workspace and report for a sweep that was logged to W&B.

    bench-dashboard [sweep=NAME] [paths.results=results/local] [entity=…] [project=…]

sweep: a sweep in the results folder, by default the last one. Creates a saved view of the project with the sweep's
runs, grouped over seeds, and a report, with a part for each data set and protocol: the leaderboard, learning curves
with seed bands, accuracy against cost, confusion matrix and mistakes. Prints their URLs. entity, project: by default
those that the runs were logged to; an entity is a user or team, by default the API key's.

Runs that were logged with logger.mode=offline must be synced first: the commands are listed, nothing is created, and
the exit code is 1.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import cli, console
from bench.config import need
from bench.errors import ConfigError
from bench.record import RunRecord, identity
from bench.report import predictions_of
from bench.reporting import leaderboard, render
from bench.reporting.predictions import Predictions
from bench.reporting.settings import form, leaves
from bench.status import cells_of, one_of, sweeps
from bench.store import DEFAULT_RESULTS, Store
from bench.weights_biases import CELLS, ID

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot, Report
    from wandb_workspaces.workspaces import Workspace

SETTINGS = ("sweep", "paths.results", "entity", "project")
CURVES = ("val/top1", "val/top5", "val/loss", "train/top1", "train/loss", "lr")
"""Logged once per epoch."""
PROTOCOL = ("data.name", "data.protocol", "data.val_size", "data.content")
"""Settings that a data set and protocol are made of."""
COSTS = ("params", "macs", "fit_seconds", "peak_memory_bytes")
"""From the summary."""


def main() -> None:
    """Run the command line."""
    cli.run("bench-dashboard", __doc__ or "", dashboard)


def dashboard(arguments: list[str]) -> None:
    """Create the workspace and report; exit code 1 if runs have not been synced, or W&B cannot be reached."""
    own = cli.settings(arguments, SETTINGS)
    store = Store(cli.single(own, "paths.results", DEFAULT_RESULTS))
    plans = sweeps(store)
    sweep = one_of(plans, cli.single(own, "sweep"))
    state = plans[sweep]
    need("bench-dashboard", "wandb", "wandb_workspaces")
    records = [cell.record for cell in cells_of(store, state) if cell.record is not None]
    if not records:
        raise ConfigError(f"sweep={sweep}: none of its cells has ended yet")
    folders = [store.path(record.run_id) / "wandb" for record in records]
    if not any(folder.is_dir() for folder in folders):
        raise ConfigError(f"sweep={sweep}: no cell was logged to W&B; run it with logger=wandb")
    if offline := unsent(folders):
        console.say(f"{len(offline)} runs are not in W&B yet; log in with `wandb login`, sync them, and try again:")
        for folder in offline:
            console.say(f"  wandb sync {shlex.quote(str(folder))}")
        raise SystemExit(cli.FAILED)

    import wandb

    # a cell that was resumed without W&B has another logger
    logged: dict[str, Any] = next(
        (one for record in records if "project" in (one := record.config.get("logger", {}))), {}
    )
    project = cli.single(own, "project", logged.get("project", "convbench"))
    try:
        entity = cli.single(own, "entity") or logged.get("entity")
        if not entity:  # as the logger chose
            api = wandb.Api()
            entity = api.settings["entity"] or api.default_entity
        if not entity:
            raise ConfigError("entity: the API key has no default entity; name a user or team")
        ids = ids_of(store, records)
        view = workspace(entity, project, sweep, records, ids)
        view.save()
        page = report(entity, project, sweep, records, predictions_of(store, records), ids)
        page.save()
    except ConfigError:
        raise
    except Exception as error:  # W&B's own, those of its service, of the network below it, of its schemas
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        cli.stop("bench-dashboard", f"W&B: {reason}; check `wandb login` and the network", cli.FAILED)
    console.say(f"workspace: {view.url}")
    console.say(f"report: {page.url}")


def unsent(folders: Sequence[Path]) -> list[Path]:
    """Offline runs in these folders that ``wandb sync`` has not marked as sent."""
    found = [path for folder in folders for path in sorted(folder.glob("offline-run-*"))]
    return [path for path in found if not list(path.glob("*.synced"))]


def ids_of(store: Store, records: Sequence[RunRecord]) -> dict[str, str]:
    """W&B's ids of the records' runs, by run id; a run that was repeated has left others of its name in the project."""
    files = {record.run_id: store.path(record.run_id) / ID for record in records}
    return {name: file.read_text() for name, file in files.items() if file.exists()}


def of_these(records: Sequence[RunRecord], ids: Mapping[str, str]) -> str:
    """A filter of the records' runs; those that an earlier sweep has done are in its group."""
    return f"Metric('ID') in {[ids[record.run_id] for record in records if record.run_id in ids]}"


def told_apart(records: Sequence[RunRecord]) -> list[str]:
    """The settings by which runs are grouped, so that a group's runs differ in the seed alone: the network's name, and
    whatever differs between records of one data set, protocol and network; before it those of PROTOCOL that differ.
    """
    nested = [identity(record.config) for record in records]
    settings = [dict(leaves(own | {"augment": dict(own.get("augment", []))})) for own in nested]
    of_tables = [key for key in PROTOCOL if len({form(own.get(key)) for own in settings}) > 1]
    alike = defaultdict(list)
    for record, own in zip(records, settings, strict=True):
        alike[record.dataset, record.protocol, record.model].append(own)
    differ = {
        key
        for several in alike.values()
        for key in set().union(*several)
        if len({form(own.get(key)) for own in several}) > 1
    }
    return [*of_tables, "model.name", *sorted(differ - {"seed"})]


def workspace(entity: str, project: str, sweep: str, records: Sequence[RunRecord], ids: Mapping[str, str]) -> Workspace:
    """A view of the project: the sweep's runs, grouped over seeds; ``ids`` are W&B's, by run id."""
    from wandb_workspaces import expr, workspaces
    from wandb_workspaces.reports import v2

    keys = told_apart(records)
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"sweep {sweep}",
        sections=[
            workspaces.Section("learning curves", [curve(name, keys) for name in CURVES], is_open=True),
            workspaces.Section(
                "accuracy and cost",
                [
                    v2.BarPlot(title="test top-1", metrics=["test/top1"], **grouped(keys)),
                    *(v2.ScatterPlot(x=v2.SummaryMetric(cost), y=v2.SummaryMetric("test/top1")) for cost in COSTS),
                ],
                is_open=True,
            ),
            workspaces.Section("test images", of_test_images()),
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=of_these(records, ids),
            groupby=[expr.Config(key) for key in keys],
            order=[expr.Ordering(expr.Summary("val/top1"), ascending=False)],
        ),
    )


def report(
    entity: str,
    project: str,
    sweep: str,
    records: Sequence[RunRecord],
    predictions: Mapping[str, Predictions],
    ids: Mapping[str, str],
) -> Report:
    """A report of the sweep's ok records, a part for each data set and protocol; by run id, ``predictions``, for
    intervals and tests, and ``ids``, W&B's.
    """
    from wandb_workspaces.reports import v2

    ok = {record.run_id: record for record in records if record.status == "ok"}
    blocks: list[Any] = [v2.TableOfContents()]
    for table in leaderboard.tables(records, predictions):
        own = [ok[run_id] for row in table.rows for run_id in row.run_ids]
        keys = told_apart(own)
        runs = v2.Runset(
            entity=entity,
            project=project,
            name=table.title,
            filters=of_these(own, ids),
            groupby=[f"config.{key}" for key in keys],
        )
        costs: list[Any] = [v2.ScatterPlot(x=v2.SummaryMetric(cost), y=v2.SummaryMetric("test/top1")) for cost in COSTS]
        blocks += [
            v2.H1(table.title),
            v2.MarkdownBlock(render.section(table)),
            v2.H2("Learning curves"),
            v2.P("One line per network and settings: the mean over its seeds, with their range."),
            v2.PanelGrid(runsets=[runs], panels=[curve(name, keys) for name in CURVES]),
            v2.H2("Accuracy against cost"),
            v2.PanelGrid(runsets=[runs], panels=costs),
            v2.H2("Confusion and mistakes"),
            v2.PanelGrid(runsets=[runs], panels=of_test_images()),
        ]
    rest = f" of {len(records)}" if len(ok) < len(records) else ""
    return v2.Report(
        project=project,
        entity=entity,
        title=f"sweep {sweep}",
        description=f"{len(ok)}{rest} runs ok; validation images, where there are any, selected the epoch; tested once",
        blocks=blocks,
    )


def grouped(keys: Sequence[str]) -> dict[str, Any]:
    """How a panel groups its runs: as the set of runs does, unless it can say so itself, which takes a single key."""
    from wandb_workspaces.reports import v2

    return {"groupby": v2.Config(keys[0])} if len(keys) == 1 else {}


def curve(name: str, keys: Sequence[str]) -> LinePlot:
    """A metric over epochs: the mean over a group's seeds, with their range."""
    from wandb_workspaces.reports import v2

    return v2.LinePlot(
        title=name, x="epoch", y=[name], groupby_aggfunc="mean", groupby_rangefunc="minmax", **grouped(keys)
    )


def of_test_images() -> list[Any]:
    """Panels for what :func:`bench.weights_biases.conclude` logs."""
    from wandb_workspaces.reports import v2

    chart = v2.CustomChart(
        query={"summaryTable": {"tableKey": "test/confusion_table"}},
        chart_name="wandb/confusion_matrix/v1",
        chart_fields={name: name for name in CELLS},
    )
    return [chart, v2.WeavePanelSummaryTable(table_name="test/mistakes")]


if __name__ == "__main__":
    main()
