"""What is published: records that anyone can check, pages made of them alone, recipes that tell what they reached."""

import csv
import functools
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from bench import cli, config, report
from bench.record import run_id
from bench.reporting import ablations, leaderboard, markdown, predictions, render, stats
from bench.speed import train
from bench.store import Store

ROOT = config.PACKAGE.parent
RESULTS = ROOT / "results"
RECIPES = sorted(
    str(file.relative_to(config.CONF / "experiment"))[:-5]
    for file in config.CONF.glob("experiment/*/*.yaml")
    if file.parent.name != "paper"
)
STORES = sorted(
    file.parent for data in {recipe.partition("/")[0] for recipe in RECIPES} for file in RESULTS.glob(f"{data}/**/runs")
)
"""What is published; a user's own results may lie beside."""
RECORDS = [(store, record) for store in STORES for record in Store(store).load_all()]
REACHED = re.compile(r"test top-1 ([\d.]+) %(?: \(mean of (\d+) seeds\))?")
TOOK = re.compile(r"(\d+) minutes")
BESIDES = re.compile(r"# With ((?:\S+=\S+ ?)+)[,:] .*?test top-1 ([\d.]+) %", re.DOTALL)
"""What a recipe reached with other settings, which stand before the number."""


def named(value):
    return value.name if isinstance(value, Path) else getattr(value, "run_id", None)


@functools.cache
def made(store):
    """The tables of a folder's records, and the ablations in each."""
    records = Store(store).load_all()
    told = report.predictions_of(Store(store), records)
    tables = leaderboard.tables(records, told)
    return tables, [ablations.effects(table, records, told) for table in tables]


@pytest.mark.parametrize(("store", "record"), RECORDS, ids=named)
def test_a_published_record_is_whole_and_can_be_run_again(store, record):
    assert record.status == "ok"
    assert record.run_id == run_id(record.config)
    assert re.fullmatch("[0-9a-f]{40}", record.git_sha)  # all of it was committed
    assert not any(Path(place).is_absolute() for place in record.config["paths"].values())
    told = predictions.load(Store(store).path(record.run_id))
    assert len(told.labels) == record.test_size
    assert told.correct.mean() == pytest.approx(record.metrics["test"]["top1"], abs=1e-6)


def test_what_is_published_stays_small():
    assert sum(file.stat().st_size for store in STORES for file in store.glob("runs/*/*.npz")) < 40e6


@pytest.mark.parametrize("store", STORES, ids=named)
def test_leaderboards_are_made_of_the_records(store):
    assert (store / "leaderboard.md").read_text() == render.to_markdown(*made(store))
    numbers = render.to_csv(made(store)[0]).splitlines()
    published = (store / "leaderboard.csv").read_text().splitlines()
    assert published[0] == numbers[0]
    for one, other in zip(csv.DictReader(published), csv.DictReader(numbers), strict=True):
        for key, value in one.items():
            try:
                assert float(value) == pytest.approx(float(other[key]), rel=1e-6), key
            except ValueError:  # a text
                assert value == other[key]


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
def test_the_tables_of_the_page_are_made_of_the_records():
    text, sections = (RESULTS / "README.md").read_text(), {}
    for store in STORES:
        if store.parent == RESULTS:
            sections |= render.sections(*made(store))
    assert render.marked(text, sections)
    assert render.inject(text, sections) == text


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
@pytest.mark.parametrize(
    ("data", "better", "other", "told"),
    [
        ("cifar10", ("lenet", "SGD"), ("lenet5", "SGD"), "a difference of {:.1f} to {:.1f} points (p = {:.3f}"),
        ("flowers102", ("googlenet", "AdamW"), ("googlenet", "SGD"), "difference: {:.1f} to {:.1f}, p < 0.0001"),
    ],
)
def test_the_findings_tell_differences_of_pairs_that_no_table_has_as_the_predictions_do(data, better, other, told):
    def correct(model, optimizer):
        store = Store(RESULTS / data)
        names = [
            record.run_id
            for record in store.load_all()
            if record.model == model and record.config["optimizer"]["_target_"] == f"torch.optim.{optimizer}"
        ]
        return np.stack([predictions.load(store.path(name)).correct for name in names])

    pair = correct(*better), correct(*other)
    p, (low, high) = stats.compare(*pair), stats.difference(*pair)
    assert told.format(100 * low, 100 * high, p) in " ".join((RESULTS / "README.md").read_text().split())
    assert p < 1e-4 or "p < " not in told


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_tells_what_its_records_say(recipe):
    header = (config.CONF / "experiment" / f"{recipe}.yaml").read_text().partition("defaults:")[0]
    reached = REACHED.search(header)
    if reached is None:
        assert "Not run yet" in header
        return
    store, found = Store(RESULTS / recipe.partition("/")[0]), []
    for seed in range(int(reached[2] or 1)):
        resolved = config.resolved(cli.composed([f"experiment={recipe}", f"seed={seed}"]))
        found.append(store.ok(run_id(resolved)))
    assert all(found)
    seconds = [record.fit_seconds for record in found]
    # recipes are made for machines that multiply bf16; in 32 bits the larger networks train at a third of that speed
    hours = 1 if found[0].precision == "bf16-mixed" else 3
    assert max(seconds) < hours * (600 if recipe == "cifar10/lenet" else 3600)
    assert abs(60 * int(TOOK.search(header)[1]) - statistics.fmean(seconds)) <= 31
    top1 = [record.metrics["test"]["top1"] for record in found]
    assert f"{100 * statistics.fmean(top1):.1f}" == reached[1]
    besides = BESIDES.findall(header)
    assert len(besides) == len(re.findall(r"^# With \S+=", header, re.MULTILINE))
    for settings, told in besides:
        record = store.ok(run_id(config.resolved(cli.composed([f"experiment={recipe}", *settings.split()]))))
        assert f"{100 * record.metrics['test']['top1']:.1f}" == told


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
def test_the_readme_shows_the_first_row_of_each_network():
    def reached(model: str, data: str, protocol: str) -> str:
        (table,) = (table for table in made(RESULTS / data)[0] if table.protocol == protocol)
        return next((render.percent(row.stats["test_top1"]) for row in table.rows if row.model == model), "–")

    _, _, below = (ROOT / "README.md").read_text().partition("| | CIFAR-10 |")
    shown = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", below.partition("\n\n")[0], re.MULTILINE)
    assert len(shown) == 10
    for name, *told in shown:
        model = name.lower().replace(" with batch norm", "_bn").replace(" as published", "").replace("-", "")
        assert told == [reached(model, "cifar10", "official-val5000"), reached(model, "flowers102", "official")]


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
def test_the_interactive_page_is_made_of_the_records_by_this_code():
    page = pytest.importorskip("bench.reporting.page", reason="needs plotly")
    store, assets = RESULTS / "cifar10", config.PACKAGE / "reporting/assets"
    text = (store / "report.html").read_text()
    assert all((assets / name).read_text() in text for name in ("page.js", "page.css"))
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])
    assert set(data["runs"]) == {record.run_id for record in Store(store).load_all()}
    for table, shown in zip(made(store)[0], data["tables"], strict=True):
        told = json.loads(json.dumps(page._table(table)))
        assert (told["caption"], len(told["rows"])) == (shown["caption"], len(shown["rows"]))
        for row, published in zip(told["rows"], shown["rows"], strict=True):
            assert row.keys() == published.keys()
            for key, value in row.items():
                assert published[key] == (value if isinstance(value, str | None) else pytest.approx(value)), key


@pytest.mark.parametrize("file", sorted(RESULTS.glob("speed/**/train.json")), ids=lambda file: file.parent.name)
def test_tables_of_speed_are_made_of_the_rates(file):
    networks = json.loads(file.read_text())["results"]
    published = file.with_suffix(".md").read_text().splitlines()
    for line in markdown.table([], [train.row(name, value) for name, value in networks.items()], left=())[2:]:
        assert line in published
    assert train.NOTE in published
    for value in networks.values():
        rates = value["rates"]
        assert value["of_bare"] == pytest.approx(train.quotient(rates[train.OURS], rates[train.BARE]))
        assert value["of_reference"] == pytest.approx(train.quotient(rates[train.OURS], rates[value["reference"]]))


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
def test_the_readme_shows_the_speed_that_was_published():
    rows = [line for line in (RESULTS / "speed/train.md").read_text().splitlines() if line.startswith("| ")]
    readme = (ROOT / "README.md").read_text()
    assert len(rows) > 7
    assert all(row in readme for row in rows[:8])
    (mean,) = [row.strip("| ").rpartition(" ")[2] for row in rows if row.startswith("| geometric mean")]
    assert f"{mean} times the plain stack" in readme
    older = (RESULTS / "speed/without_bf16/train.md").read_text()
    (mean,) = re.findall(r"^\| geometric mean of the first five \| ([\d.]+) \|$", older, re.MULTILINE)
    assert f"the mean is {mean} times the plain stack" in " ".join(readme.split())


@pytest.mark.skipif(not STORES, reason="an installed package comes without")
def test_the_readme_tells_how_long_the_runs_took():
    hours = sum(record.fit_seconds for record in Store(RESULTS / "cifar10").load_all()) / 3600
    assert f"trained the CIFAR-10 table in {hours:.1f} hours" in (ROOT / "README.md").read_text()
