"""Searches: their ranges, what becomes of each trial, and that none is lost or run twice."""

import signal
import sys
from types import SimpleNamespace

import pytest
from common import SHORT, files

pytest.importorskip("optuna")

from optuna import create_study, load_study
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, ThresholdPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from bench import train, tune
from bench.config import ConfigError
from bench.interrupt import Interrupted
from bench.store import LAST, Store
from bench.study import reporter

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
CELL = ("model=lenet", *SHORT, "progress=none", "study=mine", LR)


@pytest.fixture
def search(call, tmp_path, monkeypatch):
    """Call ``bench-tune``: arguments → exit code, standard output, standard error."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return lambda *arguments: call(tune.main, *arguments, f"paths.results={tmp_path / 'results'}")


def trials(root):
    """The trials of the study, read as by anyone."""
    (file,) = root.glob("results/studies/*.log")
    storage = JournalStorage(JournalFileBackend(str(file)))
    return load_study(study_name=file.stem, storage=storage).get_trials()


def states(root):
    return [trial.state.name for trial in trials(root)]


@pytest.fixture
def pretended(make_record, monkeypatch):
    """Cells are not trained: the nearer their learning rate is to 0.01, the better. Returns the rates."""
    rates = []

    def run(cfg, sweep, watchers):
        rates.append(cfg.optimizer.lr)
        return make_record(val=1 / (1 + abs(cfg.optimizer.lr - 0.01)), test=0.123)

    monkeypatch.setattr(train, "run", run)
    return rates


# ---- ranges


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("a=x,y", CategoricalDistribution(["x", "y"])),
        ("a=choice(lenet,nin)", CategoricalDistribution(["lenet", "nin"])),
        ("a=choice([crop],[crop,flip])", CategoricalDistribution(["[crop]", "[crop,flip]"])),
        ("a=true,false", CategoricalDistribution(["True", "False"])),
        ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("a=int(interval(16,128))", IntDistribution(16, 128)),
        ("a=tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("a=tag(log,int(interval(16,128)))", IntDistribution(16, 128, log=True)),
        ("a=range(16,65,16)", IntDistribution(16, 64, step=16)),
        ("a=range(5,1,-2)", IntDistribution(3, 5, step=2)),
        ("a=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("+a.b=1,2", CategoricalDistribution(["1", "2"])),
    ],
)
def test_ranges_are_hydras_sweeps(setting, wanted):
    fixed, space = tune.ranges(["model=nin", setting])
    assert fixed == ["model=nin"]
    assert space == {setting.partition("=")[0]: wanted}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to search; give a setting a range"),
        (["seed=0,1", "trials=many"], "trials=many: must be a whole number, 0 or more"),
        (["seed=0,1", "trials=-1"], "trials=-1: must be a whole number, 0 or more"),
        (["seed=0,1", "prune=some"], "prune=some: must be one of median, hyperband, none"),
        (["seed=0,1", "study=../other"], "study=../other: must be letters, digits"),
        (["seed=0,1", "trials=0"], "no such study in"),
        (["seed=0,1", "-m"], "-m: no such flag"),
        (["seed=0,1", "lenet"], "lenet: write it as setting=value"),
        (["seed=0,1", "seed=2,3"], "seed=2,3: seed already has a range"),
        (["seed=range(3,3)"], "seed=range(3,3): the range is empty"),
        (["model=glob(*)"], "model=glob(*): cannot be searched; list the options"),
        (["model=lenet,letnet"], "model=letnet: no such option (did you mean lenet?)"),
        (["model=interval(0,1)"], "a group's option must be a name"),
        (["sed=0,1"], "sed: no such setting (did you mean seed?)"),
        (["optimizer.lr=interval(low,1)"], "optimizer.lr=interval(low,1)"),
        (["optimizer.lr=interval(0.1,0.01)"], "optimizer.lr=interval(0.1,0.01): `low <= high` must hold"),
        (["optimizer.lr=interval(0,0.1)"], "optimizer.lr=0.0: must be a number above 0"),
        (["optimizer.lr=tag(log,interval(0,0.1))"], "`low > 0` must hold"),
        (["trainer.max_epochs=tag(log,range(1,9))"], "log only works with interval(…)"),
        (["trainer.max_epochs=int(interval(0,3))"], "trainer.max_epochs=0: must be a whole number, 1 or more"),
        (
            ["trainer.max_epochs=int(interval(2,6))", "trainer.check_val_every_n_epoch=2"],
            "trainer.max_epochs, which is 3",
        ),
        (["trainer.max_epochs=range(2,9,3)", "trainer.check_val_every_n_epoch=2"], "trainer.max_epochs, which is 5"),
        (["seed=0,1", "data.val_size=0"], "data.val_size=0: a search needs validation images"),
        (["data.val_size=100,0"], "data.val_size=0: a search needs validation images"),
        (["data.val_size=100,50"], "trials are compared on the same validation images"),
        (["seed=0,1", "force=true"], "force=true: a search resumes from its existing trials"),
        (["seed=0,1", "trainer.devices=2"], "cannot be pruned; add prune=none"),
        (["seed=0,1", "hydra/launcher=ray"], "hydra/launcher=ray: a search takes ranges, not a launcher"),
        (["seed=0,1", "+sweep=five"], "+sweep=five: a search takes ranges, not a launcher or a sweep"),
    ],
)
def test_a_mistake_is_told_in_a_line_before_anything_is_written(search, tmp_path, arguments, said):
    code, out, err = search(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("bench-tune: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert files(tmp_path) == []


def test_without_optuna_it_says_what_to_install(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.storages.journal", None)
    code, _, err = search("seed=0,1")
    assert (code, err) == (2, "bench-tune: needs optuna 4.0 or newer; pip install 'convbench[tune]'\n")


# ---- which trials there are


def test_a_search_in_parts_draws_what_a_search_at_once_draws(search, pretended, tmp_path):
    assert search(*CELL, "trials=14")[0] == 0
    (tmp_path / "results").rename(tmp_path / "at once")
    for count in (3, 3, 11, 14):
        assert search(*CELL, f"trials={count}")[0] == 0
        assert states(tmp_path) == ["COMPLETE"] * count
    assert pretended[:14] == pretended[14:]
    assert len(set(pretended[:14])) == 14


def test_the_best_are_shown_with_the_command_that_runs_them_and_nothing_of_the_test(search, pretended, tmp_path):
    code, out, _ = search(*CELL, "trials=12")
    assert code == 0
    lines = out.splitlines()
    best = min(pretended, key=lambda rate: abs(rate - 0.01))
    assert lines[-1].startswith("  bench model=lenet ")
    assert lines[-1].endswith(f" optimizer.lr={best}")
    assert lines[-3] == "12 trials: 12 complete"
    table = lines[lines.index(next(line for line in lines if line.startswith("study mine"))) : -3]
    assert len(table) == 2 + 10
    assert max(map(len, table)) <= 80
    assert "12.3%" not in out
    assert out[out.index("study mine") :] == search(*CELL, "trials=0")[1]


def test_without_a_name_the_study_is_that_of_the_settings_and_ranges(search, pretended, tmp_path):
    cell = [setting for setting in CELL if not setting.startswith("study=")]
    for more in ((), ("progress=lines", "trials=2"), ("seed=1",), ("data.batch_size=8,16",)):
        assert search("trials=1", *cell, *more)[0] == 0
    studies = {file.stem: file for file in tmp_path.glob("results/studies/*.log")}
    assert len(studies) == 3
    assert all(name.startswith("digits-") for name in studies)


def test_a_name_that_another_search_has_is_refused(search, pretended, tmp_path):
    assert search(*CELL, "trials=1")[0] == 0
    code, _, err = search(*CELL, "trials=1", "seed=1")
    assert (code, err) == (
        2, "bench-tune: study=mine: already exists with other settings or ranges; choose another name\n",
    )  # fmt: skip
    (tmp_path / "results/studies/other.log").write_text("no study\n{}\n")
    code, _, err = search(*CELL, "trials=1", "study=other")
    assert code == 2
    assert "other.log: is damaged or not a study" in err


# ---- what becomes of a trial


def test_trials_are_cells_whose_validation_decides(search, tmp_path):
    code, out, err = search(*CELL, "trials=3")
    assert (code, err) == (0, "")
    store = Store(tmp_path / "results")
    for trial in trials(tmp_path):
        record = store.ok(trial.user_attrs["run_id"])
        assert record.config["optimizer"]["lr"] == trial.params["optimizer.lr"]
        assert record.metrics["val"]["top1"] == trial.value
        assert f"{record.metrics['test']['top1']:.1%}" not in out
    assert len(store.load_all()) == 3
    assert not list(tmp_path.glob("results/studies/mine/*/*"))  # claims


def test_a_cell_with_a_record_is_not_trained_again(search, tmp_path, monkeypatch):
    assert search(*CELL, "trials=1")[0] == 0
    monkeypatch.setattr(train, "run", None)
    code, out, _ = search(*CELL, "trials=1", "study=another")
    assert code == 0
    assert "1 complete" in out


def test_a_failed_trial_is_told_and_the_others_go_on(search, tmp_path, monkeypatch):
    build, calls = train.build, []

    def fail_once(cfg, resolved, device):
        calls.append(cfg)
        if len(calls) == 1:
            raise RuntimeError("the first breaks")
        return build(cfg, resolved, device)

    monkeypatch.setattr(train, "build", fail_once)
    code, out, err = search(*CELL, "trials=2")
    assert (code, err) == (1, "bench-tune: 1 trial failed\n")
    assert "  trial 1 failed: RuntimeError: the first breaks\n" in out
    assert states(tmp_path) == ["FAIL", "COMPLETE"]


def test_settings_that_do_not_go_together_fail_alone(search, pretended, tmp_path):
    # each is right beside the first of the other
    code, out, _ = search("data.image_size=16,32", "data.decode_size=32,16", "prune=none", "trials=8")
    assert code == 1
    assert "data.decode_size=16: must be data.image_size, which is 32, or more" in out
    assert set(states(tmp_path)) == {"FAIL", "COMPLETE"}


@pytest.mark.parametrize("every", [1, 2])
def test_a_trial_is_pruned_after_a_validated_epoch_and_keeps_its_checkpoint(search, tmp_path, monkeypatch, every):
    monkeypatch.setattr(tune, "pruner", lambda name, epochs: ThresholdPruner(lower=1.1))
    settings = ("trainer.max_epochs=4", f"trainer.check_val_every_n_epoch={every}")
    code, out, err = search(*CELL, *settings, "trials=1")
    assert (code, err) == (0, "")
    assert f"trial 1 of 1: pruned after epoch {every}; optimizer.lr=" in out
    (trial,) = trials(tmp_path)
    (record,) = Store(tmp_path / "results").load_all()
    assert trial.state == TrialState.PRUNED
    assert list(trial.intermediate_values) == [every]
    assert (record.status, record.error) == ("interrupted", f"pruned after epoch {every}")
    assert (Store(tmp_path / "results").path(record.run_id) / LAST).exists()


def test_a_search_without_validation_images_ends_each_trial_before_it_trains():
    study = create_study(direction="maximize")
    watcher = reporter(study, study.ask())
    with pytest.raises(ConfigError, match="data: has no validation images, which a search needs"):
        watcher.on_train_epoch_start(SimpleNamespace(enable_validation=False, callbacks=[]), None)


class Stops(BasePruner):
    """As a signal does, after epoch 1."""

    def prune(self, study, trial):
        raise Interrupted(signal.SIGTERM)


def test_a_stopped_trial_goes_on_and_reports_each_epoch_once(search, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(tune, "pruner", lambda name, epochs: Stops())
        code, _, err = search(*CELL, "trainer.max_epochs=3", "trials=1")
    assert (code, err) == (143, "bench-tune: stopped by SIGTERM; the same command resumes from there\n")
    (before,) = trials(tmp_path)
    assert before.state == TrialState.RUNNING
    code, out, _ = search(*CELL, "trainer.max_epochs=3", "trials=1")
    assert code == 0
    assert "resumes from its last checkpoint" in out
    (after,) = trials(tmp_path)
    assert after.state == TrialState.COMPLETE
    assert after.params == before.params
    assert sorted(after.intermediate_values) == [1, 2]


def test_the_median_prunes_nobody_in_the_first_third_of_the_epochs():
    study = create_study(direction="maximize", pruner=tune.pruner("median", 6))
    for _ in range(5):
        trial = study.ask()
        for epoch in range(1, 7):
            trial.report(0.9, epoch)
        study.tell(trial, 0.9)
    trial, pruned = study.ask(), []
    for epoch in range(1, 7):
        trial.report(0.1, epoch)
        pruned.append(trial.should_prune())
    assert pruned == [False, False, True, True, True, True]


@pytest.mark.parametrize(("name", "some"), [("hyperband", True), ("none", False)])
def test_hyperband_prunes_some_of_the_worse_and_none_prunes_none(name, some):
    study = create_study(direction="maximize", pruner=tune.pruner(name, 9), study_name="fixed")
    pruned = set()
    for number in range(20):
        trial = study.ask()
        for epoch in range(1, 10):
            trial.report(1 - number / 20, epoch)  # each is worse than those before
            if trial.should_prune():
                pruned.add(number)
                break
        study.tell(trial, state=TrialState.PRUNED if number in pruned else None, values=None if number in pruned else 1)
    assert bool(pruned) == some
    assert 0 not in pruned


@pytest.mark.parametrize("name", tune.PRUNERS)
def test_a_single_epoch_can_be_searched(name):
    assert isinstance(tune.pruner(name, 1), BasePruner)
