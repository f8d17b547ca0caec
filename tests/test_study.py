"""What becomes of a trial: a cell with its record, pruned, failed, stopped or resumed, and none lost."""

import json
import signal
from types import SimpleNamespace

import pytest

pytest.importorskip("optuna")

from optuna import create_study
from optuna.pruners import BasePruner, ThresholdPruner
from optuna.trial import TrialState
from searches import CELL, states, study, trials

from bench import train, tune
from bench.errors import ConfigError
from bench.interrupt import Interrupted
from bench.store import LAST, LostError, Store
from bench.study import reporter


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


def test_a_trial_that_was_taken_over_is_left_to_the_other_process(search, tmp_path, monkeypatch):
    run, calls = train.run, []
    owner = tmp_path / "results/studies/mine/0/claim.json"

    def overtaken(cfg, sweep, watchers=()):
        calls.append(cfg.optimizer.lr)
        if len(calls) == 1:  # this process slept; another has taken the trial and its cell
            owner.write_text(json.dumps(json.loads(owner.read_text()) | {"id": "theirs"}))
            raise LostError("cell")
        if len(calls) == 2:  # and dies
            owner.unlink()
        return run(cfg, sweep, watchers=watchers)

    monkeypatch.setattr(train, "run", overtaken)
    code, out, err = search(*CELL, "trials=2")
    assert (code, err) == (0, "")
    assert "trial 1 of 2: taken over by another process\n" in out
    assert states(tmp_path) == ["COMPLETE"] * 2
    assert calls[2] == calls[0] != calls[1]


def test_a_trial_that_another_process_has_ended_is_not_told_again(search, tmp_path, monkeypatch):
    run = train.run

    def overtaken(cfg, sweep, watchers=()):
        record = run(cfg, sweep, watchers=watchers)
        (tmp_path / "results/studies/mine/0/claim.json").unlink()
        study(tmp_path).tell(0, 0.5)
        return record

    monkeypatch.setattr(train, "run", overtaken)
    code, out, err = search(*CELL, "trials=1")
    assert (code, err) == (0, "")
    assert "trial 1 of 1: taken over by another process\n" in out
    assert [trial.value for trial in trials(tmp_path)] == [0.5]


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
    code, out, _ = search("data.image_size=28,32", "data.decode_size=32,28", "prune=none", "trials=8")
    assert code == 1
    assert "data.decode_size=28: must be data.image_size, which is 32, or more" in out
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


def test_a_trial_that_processes_die_of_fails_and_the_others_go_on(search, tmp_path, monkeypatch):
    run, dead = train.run, []
    place = tmp_path / "results/studies/mine/0/claim.json"

    def die(cfg, sweep, watchers=()):
        if dead and cfg.optimizer.lr != dead[0]:
            return run(cfg, sweep, watchers=watchers)
        dead.append(cfg.optimizer.lr)
        left = json.loads(place.read_text()) | {"born": "1", "id": "of a process that is gone"}
        place.write_text(json.dumps(left))
        raise Interrupted(signal.SIGKILL)

    monkeypatch.setattr(train, "run", die)
    for _ in range(3):
        search(*CELL, "trials=2")
    assert states(tmp_path) == ["RUNNING"]
    code, out, _ = search(*CELL, "trials=2")
    assert code == 1
    assert "trial 1 of 2: failed, 3 processes died of it after epoch 0; " in out
    assert states(tmp_path) == ["FAIL", "COMPLETE"]
    assert len(dead) == 3


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
