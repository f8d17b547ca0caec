"""Sweeps: what their cells become, and how they end; what is refused beforehand is in test_sweep_plan.py."""

import csv
import json

import pytest
from common import NOISE, SHORT

from bench import queues, train
from bench.store import Store


def test_a_sweep_trains_every_combination_and_tells_what_is_left(bench, tmp_path):
    code, out, err = bench("-m", "model=lenet", "seed=0,1", "optimizer.lr=0.001,0.003", *SHORT, "progress=none")
    assert (code, err) == (0, "")
    assert [line.rsplit("; ", 1)[1].split(",")[0] for line in out.splitlines() if " left" in line] == [
        "3 left", "2 left", "1 left", "0 left",
    ]  # fmt: skip
    assert "4 of 4 cells ok" in out
    records = Store(tmp_path / "results").load_all()
    assert sorted((record.seed, record.config["optimizer"]["lr"]) for record in records) == [
        (0, 0.001), (0, 0.003), (1, 0.001), (1, 0.003),
    ]  # fmt: skip
    (plan,) = (tmp_path / "results/sweeps").glob("*/plan.json")
    assert sorted(json.loads(plan.read_text())["cells"]) == [record.run_id for record in records]
    with (tmp_path / "results/leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["n"]) for row in rows] == [("lenet", "2"), ("lenet", "2")]
    assert {row["variant"] for row in rows} == {"optimizer.lr=0.001", "optimizer.lr=0.003"}
    for row in rows:
        assert f"{100 * float(row['test_top1']):.1f}±" in out


def test_a_sweep_of_a_folder_in_the_home_lies_beside_its_runs(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    code, _, err = bench("-m", "model=lenet", *SHORT, "progress=none", results="'~/mine'")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "home/mine").iterdir()) == [
        "leaderboard.csv", "leaderboard.md", "runs", "sweeps",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_sweep_may_name_options_by_a_pattern(bench, tmp_path):
    code, out, err = bench("-m", "model=glob(lenet*)", *SHORT, "progress=none")
    assert (code, err) == (0, "")
    assert "2 of 2 cells ok" in out
    assert {record.model for record in Store(tmp_path / "results").load_all()} == {"lenet", "lenet5"}


def test_a_queue_gets_the_cells_that_are_left(bench, monkeypatch):
    settings = ("-m", "model=lenet", *SHORT, "progress=none")
    assert bench(*settings, "seed=0")[0] == 0
    given = []
    make = queues.InProcess.__init__
    monkeypatch.setattr(
        queues.InProcess, "__init__", lambda self, cells, **more: given.append(len(cells)) or make(self, cells, **more)
    )
    for more in ("seed=0,1", "seed=0,1", "force=true"):  # one is left; none; all again
        assert bench(*settings, "seed=0,1", *([more] if more == "force=true" else []))[0] == 0
    assert given == [1, 2, 2]


def test_a_failed_cell_is_recorded_and_the_others_go_on(bench, tmp_path, monkeypatch):
    build = train.build

    def fail_for_seed_1(cfg, resolved, device):
        if cfg.seed == 1:
            raise RuntimeError("the second cell breaks")
        return build(cfg, resolved, device)

    monkeypatch.setattr(train, "build", fail_for_seed_1)
    code, out, _ = bench("-m", "model=lenet", "seed=0,1,2", *SHORT, "progress=none")
    assert code == 1
    assert "lenet on digits, seed 1: failed, RuntimeError: the second cell breaks; 1 left" in out
    assert "2 of 3 cells ok" in out
    records = {record.seed: record for record in Store(tmp_path / "results").load_all()}
    assert [records[seed].status for seed in (0, 1, 2)] == ["ok", "failed", "ok"]
    error = Store(tmp_path / "results").path(records[1].run_id) / "error.txt"
    assert "the second cell breaks" in error.read_text()
    assert "Traceback" in error.read_text()


def test_a_cell_that_does_not_suit_the_images_fails_alone(bench, tmp_path):
    code, out, _ = bench("-m", "model=lenet", *SHORT, "data.val_size=1790,100", "progress=none")
    assert code == 1
    assert "data.val_size=1790: cannot hold out 1790 of 297 samples" in out
    assert sorted(record.status for record in Store(tmp_path / "results").load_all()) == ["failed", "ok"]


def test_a_sweep_run_again_does_only_what_is_missing(bench, tmp_path, monkeypatch):
    build, broken = train.build, True

    def fail_once(cfg, resolved, device):
        if broken and cfg.seed == 1:
            raise RuntimeError("for now")
        return build(cfg, resolved, device)

    monkeypatch.setattr(train, "build", fail_once)
    sweep = ("-m", "model=lenet", "seed=0,1", *SHORT, "progress=none")
    assert bench(*sweep)[0] == 1
    broken = False
    code, out, _ = bench(*sweep)
    assert code == 0
    assert out.count("already done") == 1
    assert "seed 1: val" in out
    assert "; 0 left" in out
    assert {record.status for record in Store(tmp_path / "results").load_all()} == {"ok"}


def test_ctrl_c_stops_the_sweep_and_keeps_what_is_done(bench, tmp_path, monkeypatch):
    build = train.build

    def stop_at_seed_1(cfg, resolved, device):
        if cfg.seed == 1:
            raise KeyboardInterrupt
        return build(cfg, resolved, device)

    monkeypatch.setattr(train, "build", stop_at_seed_1)
    code, out, err = bench("-m", "model=lenet", "seed=0,1,2", *SHORT, "progress=none")
    assert (code, err) == (130, "")
    assert "1 of 3 cells ok" in out
    assert "interrupted: stopped by Ctrl-C" in out
    assert out.count("not run") == 1
    assert out.rstrip().endswith("stopped; the same command resumes from there")
    assert [record.status for record in Store(tmp_path / "results").load_all()] == ["ok", "interrupted"]


@pytest.mark.slow
def test_the_five_networks_run_in_one_sweep(bench, noise, tmp_path):
    code, out, _ = bench("-m", "model=lenet,alexnet,nin,vgg16,googlenet", *NOISE, noise, "progress=none")
    assert code == 0, out
    assert len(Store(tmp_path / "results").load_all()) == 5
    table = out[out.index("noise (") :].splitlines()
    assert max(map(len, table)) <= 80


def test_a_summary_that_cannot_be_written_is_told_and_is_no_success(bench, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("bench.report.build", full)
    code, _, err = bench("-m", "model=lenet", "seed=0", *SHORT, "progress=none")
    assert code == 1
    assert "bench: the sweep's summary: disk full" in err


def test_a_torn_record_is_trained_anew(bench, tmp_path):
    sweep = ("-m", "model=lenet", "seed=0", *SHORT, "progress=none")
    assert bench(*sweep)[0] == 0
    (record,) = (tmp_path / "results/runs").glob("*/record.json")
    record.write_text(record.read_text().replace('"schema_version": 2', '"schema_version": 0'))
    with pytest.warns(UserWarning, match="schema_version=0|moved to"):
        code, out, _ = bench(*sweep)
    assert code == 0
    assert "1 of 1 cells ok" in out
    assert len(Store(tmp_path / "results").load_all()) == 1


def test_a_forced_sweep_that_fails_keeps_the_old_record_and_says_so(bench, tmp_path, monkeypatch):
    sweep = ("-m", "model=lenet", "seed=0", *SHORT, "progress=none")
    assert bench(*sweep)[0] == 0

    def broken(*_):
        raise RuntimeError("broken since")

    monkeypatch.setattr(train, "build", broken)
    code, out, _ = bench(*sweep, "force=true")
    assert code == 1
    assert "failed, RuntimeError: broken since" in out
    assert "0 of 1 cells ok" in out
    assert [record.status for record in Store(tmp_path / "results").load_all()] == ["ok"]


def test_a_sweep_whose_plan_is_gone_is_no_success(bench, tmp_path, monkeypatch):
    build = train.build

    def lose_the_plan(cfg, resolved, device):
        for plan in (tmp_path / "results/sweeps").glob("*/plan.json"):
            plan.unlink()
        return build(cfg, resolved, device)

    monkeypatch.setattr(train, "build", lose_the_plan)
    code, _, err = bench("-m", "model=lenet", "seed=0", *SHORT, "progress=none")
    assert code == 1
    assert "plan.json is gone" in err
