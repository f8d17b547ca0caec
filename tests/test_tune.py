"""``bench-tune``: ranges, mistakes, which trials a study has, and what is shown of them."""

import sys

import pytest
from common import files, record_of

pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from searches import CELL, states

from bench import config, resolvers, train, tune


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
        ("a=range(0,1,0.3)", FloatDistribution(0, 0.9, step=0.3)),
        ("a=range(1,0,-0.3)", FloatDistribution(0.1, 1.0, step=0.3)),
        ("a=range(0.2,0.9,0.3)", FloatDistribution(0.2, 0.8, step=0.3)),
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
        (["seed=0,1", "loss.label_smoothing=0.1", "model.net.dropout=2", "model=nin"], "model.net: "),
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
        (["trainer.max_epochs=range(1,9)"], "trials of different lengths cannot be compared midway; add prune=none"),
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


def test_a_search_in_parts_draws_what_a_search_at_once_draws(search, pretended, tmp_path):
    assert search(*CELL, "trials=14")[0] == 0
    (tmp_path / "results").rename(tmp_path / "at once")
    for count in (3, 3, 11, 14):
        assert search(*CELL, f"trials={count}")[0] == 0
        assert states(tmp_path) == ["COMPLETE"] * count
    assert pretended[:14] == pretended[14:]
    assert len(set(pretended[:14])) == 14


def test_a_search_of_which_all_fails_stops_and_goes_on_once_that_is_mended(search, pretended, tmp_path, monkeypatch):
    run = train.run
    failed = record_of(status="failed", error="no images", metrics={})
    monkeypatch.setattr(train, "run", lambda *_, **__: failed)
    code, out, err = search(*CELL, "trials=8")
    assert (code, err) == (1, "bench-tune: 3 trials failed\n")
    assert "no trial has succeeded: once the cause is mended, the same command runs the other 5\n" in out
    assert states(tmp_path) == ["FAIL"] * 3
    monkeypatch.setattr(train, "run", run)
    search(*CELL, "trials=8")
    assert states(tmp_path) == ["FAIL"] * 3 + ["COMPLETE"] * 5


def test_a_search_looks_at_a_folder_of_images_once_a_trial(search, pretended, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "data/pets/train" / name).mkdir(parents=True)
    looked = []
    monkeypatch.setattr(resolvers, "_content", lambda root: looked.append(root) or "0123456789")
    pretend = train.run
    monkeypatch.setattr(train, "run", lambda cfg, *given, **named: config.check(cfg) and pretend(cfg, *given, **named))
    images = ("data=folder", "data.name=pets", f"paths.data={tmp_path}/data")
    search("model=lenet", *images, "optimizer.lr=interval(0.1,0.2)", "data.batch_size=8,16", "trials=3")
    assert len(looked) == 4  # the check of all edges, and the trials, whose settings are checked twice


def test_configurations_of_ones_own_are_searched_too(search, pretended, tmp_path):
    place = tmp_path / "mine/model"
    place.mkdir(parents=True)
    (place / "small.yaml").write_text("defaults:\n  - lenet\nname: small\n")
    settings = ["model=small" if one.startswith("model=") else one for one in CELL]
    code, out, err = search(f"hydra.searchpath=[file://{tmp_path}/mine]", *settings, "trials=1")
    assert (code, err) == (0, "")
    assert f"bench 'hydra.searchpath=[file://{tmp_path}/mine]' model=small" in out


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


def test_the_lock_of_a_killed_search_is_released(search, pretended, tmp_path, monkeypatch):
    from optuna.storages.journal import JournalFileSymlinkLock

    monkeypatch.chdir(tmp_path)
    cell = [*CELL, "paths.results=results"]  # relative, as by default
    assert search(*cell, "trials=1")[0] == 0
    file = tmp_path / "results/studies/mine.log"
    held = JournalFileSymlinkLock(str(file))
    assert held.acquire()
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (3,))  # seconds that it waits for a sign
    assert search(*cell, "trials=2")[0] == 0
    assert states(tmp_path) == ["COMPLETE"] * 2


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
