"""The bench-dashboard command; W&B's servers are replaced."""

import json
import time
from types import SimpleNamespace

import pytest
from cells import answers
from common import record_of

from bench import dashboard, weights_biases
from bench.record import protocol
from bench.reporting import stats
from bench.store import Store

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1", "ignore:.*is deprecated")


@pytest.fixture
def sweep(tmp_path):
    """A results folder with a sweep of two cells, the first one of which was logged to W&B offline."""
    store = Store(tmp_path / "results")
    begun = time.time() - 10
    settings = record_of().config | {"logger": {"project": "mine", "entity": None}}
    records = [
        record_of("lenet", config=settings),
        record_of("nin", val=0.95),
    ]
    for record in records:
        work = store.workspace(record.run_id)
        if record.model == "lenet":
            folder = work.path / "wandb/offline-run-20260102_030405-abcdefgh"
            folder.mkdir(parents=True)
            (folder / "run-abcdefgh.wandb").write_bytes(b"")
        store.publish(record, work)
    place = store.root / "sweeps/20260102-030405"
    place.mkdir(parents=True)
    cells = {record.run_id: {"overrides": [], "epochs": 5} for record in records}
    (place / "plan.json").write_text(json.dumps({"cells": cells, "started": begun}))
    return store.root


def test_offline_runs_are_to_be_sent_first(call, sweep):
    code, out, err = call(dashboard.main, f"paths.results={sweep}")
    assert (code, err) == (1, "")
    folder = f"{sweep}/runs/{record_of('lenet').run_id}/wandb/offline-run-20260102_030405-abcdefgh"
    assert out.splitlines()[1:] == [f"  wandb sync {folder}"]
    assert "1 runs are not in W&B yet; log in with `wandb login`" in out


def test_a_sweep_of_which_nothing_has_ended_has_nothing_to_show(call, sweep):
    (plan,) = sweep.glob("sweeps/*/plan.json")
    later = json.loads(plan.read_text()) | {"cells": {"digits-vgg16-s0-0123456789": {"overrides": [], "epochs": 5}}}
    plan.write_text(json.dumps(later))
    code, _, err = call(dashboard.main, f"paths.results={sweep}")
    assert (code, err) == (2, f"bench-dashboard: sweep={plan.parent.name}: none of its cells has ended yet\n")


def sent(sweep):
    (file,) = sweep.glob("runs/*/wandb/offline-run-*/run-*.wandb")
    file.with_name(f"{file.name}.synced").touch()


@pytest.mark.slow
def test_workspace_and_report_are_saved_and_named(call, sweep, monkeypatch):
    from wandb_workspaces.reports import v2
    from wandb_workspaces.workspaces import Workspace

    sent(sweep)
    saved = []
    for kind in (Workspace, v2.Report):
        monkeypatch.setattr(kind, "save", lambda self: saved.append(self))
        monkeypatch.setattr(kind, "url", f"https://wandb/{kind.__name__}")
    code, out, err = call(dashboard.main, f"paths.results={sweep}", "entity=team", "project=course")
    assert (code, err) == (0, "")
    assert out == "workspace: https://wandb/Workspace\nreport: https://wandb/Report\n"
    assert call(dashboard.main, f"paths.results={sweep}", "entity=team")[0] == 0
    assert [(one.entity, one.project) for one in saved] == [("team", "course")] * 2 + [("team", "mine")] * 2
    for chosen, entity in (("lab", "lab"), (None, "me")):  # by WANDB_ENTITY, as for the run that was logged
        saved.clear()
        api = SimpleNamespace(settings={"entity": chosen}, default_entity="me")
        monkeypatch.setattr("wandb.Api", lambda api=api: api)
        assert call(dashboard.main, f"paths.results={sweep}")[0] == 0
        assert {one.entity for one in saved} == {entity}


@pytest.mark.slow
def test_the_workspace_has_the_sweeps_runs_and_the_metrics_that_are_logged():
    records = [record_of("lenet"), record_of("nin"), record_of("alexnet")]
    ids = {records[0].run_id: "abcdefgh", records[1].run_id: "ijklmnop"}  # the third was not logged
    model = dashboard.workspace("team", "convbench", "20260102-030405", records, ids)._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True))
    (runs,) = spec["section"]["runSets"]
    (chosen,) = runs["filters"]["filters"]
    assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "name"}, "IN")  # W&B's name for the id
    assert chosen["value"] == ["abcdefgh", "ijklmnop"]
    assert [group["name"] for group in runs["grouping"]] == ["model.value.name"]
    panels = {section["name"]: section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]}
    assert [panel["config"]["metrics"] for panel in panels["learning curves"]] == [[name] for name in dashboard.CURVES]
    assert [panel["viewType"] for panel in panels["accuracy and cost"]] == ["Bar Chart", *["Scatter Plot"] * 4]
    assert "test/confusion_table" in json.dumps(panels["test images"])
    assert "test/mistakes" in json.dumps(panels["test images"])
    fields = vars(record_of())
    assert set(dashboard.COSTS) <= {name for name, value in fields.items() if isinstance(value, int | float)}


def test_runs_are_grouped_by_all_that_differs_but_the_seed():
    def one(model="lenet", seed=0, lr=0.1, augment=(), name="digits", **data):
        config = {"seed": seed, "model": {"name": model}, "optimizer": {"lr": lr}, "augment": dict(augment)}
        config["data"] = {"name": name, "protocol": "official", "val_size": 0, **data}
        return record_of(model, seed, dataset=name, protocol=protocol(config), config=config)

    assert dashboard.told_apart([one(), one(seed=1), one("nin", lr=0.2)]) == ["model.name"]
    assert dashboard.told_apart([one(), one(seed=1), one(lr=0.2)]) == ["model.name", "optimizer.lr"]
    assert dashboard.told_apart([one(), one(augment={"flip": {"p": 0.5}})]) == ["model.name", "augment.flip.p"]
    several = [one(), one(name="cifar10"), one(name="cifar10", val_size=5000), one(name="cifar10", val_size=1000)]
    assert len({record.protocol for record in several}) == 3
    assert dashboard.told_apart(several) == ["data.name", "data.val_size", "model.name"]
    assert dashboard.told_apart([one(), one(protocol="full")]) == ["data.protocol", "model.name"]


def test_the_ids_are_those_of_the_runs_that_were_kept(tmp_path):
    store, records = Store(tmp_path), [record_of("lenet"), record_of("nin")]
    for record, logged in zip(records, (True, False), strict=True):
        work = store.workspace(record.run_id)
        if logged:
            (work.path / weights_biases.ID).write_text("abcdefgh")
        store.publish(record, work)
    assert dashboard.ids_of(store, records) == {records[0].run_id: "abcdefgh"}


@pytest.fixture
def spec(monkeypatch):
    """The content of a report on records, none of whose parts is asked of W&B, and as text."""
    answer = {"project": {"internalId": "1"}}
    monkeypatch.setattr("wandb_workspaces.reports.v2.interface._get_api", lambda: None)
    monkeypatch.setattr("wandb_workspaces.reports.v2.interface.execute_graphql", lambda *query: answer)

    def of(records, predictions=()):
        ids = {record.run_id: f"id-{i}" for i, record in enumerate(records)}
        model = dashboard.report("team", "convbench", "s1", records, dict(predictions), ids)._to_model()
        content = json.loads(model.spec.model_dump_json(by_alias=True))
        return model, content, json.dumps(content, ensure_ascii=False)

    return of


@pytest.mark.slow
def test_a_report_has_a_part_for_each_data_set_with_its_own_ok_runs(spec):
    records = [
        record_of("lenet"),
        record_of("lenet", dataset="cifar10", run_id="cifar10-lenet-s0-0123456789"),
        record_of("nin", status="failed", error="why"),
    ]
    model, content, text = spec(records)
    grids = [block["metadata"]["runSets"] for block in content["blocks"] if block["type"] == "panel-grid"]
    chosen = [runs["filters"]["filters"][0]["value"] for (runs,) in grids]
    assert chosen == [["id-1"]] * 3 + [["id-0"]] * 3
    assert model.description.startswith("2 of 3 runs ok; ")
    assert "cifar10 (stratified)" in text


@pytest.mark.slow
def test_the_report_has_the_table_of_the_records(spec):
    records = [record_of("lenet"), record_of("nin", val=0.95)]
    predictions = {record.run_id: answers(0.9, seed=i) for i, record in enumerate(records)}
    _, _, text = spec(records, predictions)
    assert "digits (stratified)" in text
    assert "| 1 | nin |" in text
    assert "| 2 | lenet ≈ |" in text  # by a test of the predictions
    low, high = (f"{100 * end:.1f}" for end in stats.interval(predictions[records[1].run_id].correct[None]))
    assert f"{low}–{high}" in text
    assert all(name in text for name in (*dashboard.CURVES, *dashboard.COSTS, *weights_biases.CELLS))


def test_what_w_and_b_says_is_told_in_a_line(call, sweep, monkeypatch):
    import wandb

    sent(sweep)

    def refuse():
        raise wandb.errors.UsageError("No API key configured.\nLong story.")

    monkeypatch.setattr(wandb, "Api", refuse)
    code, out, err = call(dashboard.main, f"paths.results={sweep}")
    assert (code, out) == (1, "")
    assert err == "bench-dashboard: W&B: No API key configured.; check `wandb login` and the network\n"


def test_what_its_service_or_the_network_says_is_told_in_a_line_too(call, sweep, monkeypatch):
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    sent(sweep)

    def refuse():
        raise WandbApiFailedError("permission denied")

    monkeypatch.setattr(wandb, "Api", refuse)
    code, _, err = call(dashboard.main, f"paths.results={sweep}")
    assert (code, err) == (1, "bench-dashboard: W&B: permission denied; check `wandb login` and the network\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweep=no-such"], "sweep=no-such: no such sweep; available: 20260102-030405"),
        (["sweeps=x"], "sweeps=x: no such setting"),
        (["paths.results=/no-such"], "contains no sweep"),
    ],
)
def test_mistakes_are_told_in_a_line(call, sweep, arguments, told):
    if "paths.results=/no-such" not in arguments:
        arguments = [*arguments, f"paths.results={sweep}"]
    code, out, err = call(dashboard.main, *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_sweep_that_was_not_logged_says_how(call, sweep):
    (folder,) = sweep.glob("runs/*/wandb")
    folder.rename(sweep / "elsewhere")
    code, _, err = call(dashboard.main, f"paths.results={sweep}")
    assert code == 2
    assert "no cell was logged to W&B; run it with logger=wandb" in err


def test_without_the_package_it_says_what_to_install(call, sweep, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = call(dashboard.main, f"paths.results={sweep}")
    assert code == 2
    assert "pip install 'convbench[wandb]'" in err
