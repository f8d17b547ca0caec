"""Sweeps on Ray, on clusters that this machine plays."""

import concurrent.futures
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from common import SHORT, one_line, wait_for
from processes import command, finish

from bench import queues
from bench.__main__ import main
from bench.errors import ConfigError
from bench.interrupt import Interrupted
from bench.launcher import Cell, Ended
from bench.queues import RayTasks
from bench.store import Store

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
SWEEP = ("-m", "hydra/launcher=ray", "model=lenet", *SHORT[:-1], "progress=none")


def begin(results, *arguments):
    """Start ``bench`` in a process of its own."""
    log = results / "sweep.log"
    log.write_text("")
    return command(main, *SWEEP, *arguments, f"paths.results={results}", log=log)


def end(process, results):
    """Its exit code and output."""
    return finish(process, 400), (results / "sweep.log").read_text()


@pytest.fixture
def cluster():
    """A function that gives the cluster's address, and one that kills one of its two worker nodes."""
    script = Path(__file__).with_name("ray_cluster.py")
    env = os.environ | QUIET | {"PYTHONPATH": str(script.parent)}  # where its workers find what tests use
    process = subprocess.Popen(
        [sys.executable, str(script)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def say(text=""):
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "killed\n"

    yield process.stdout.readline().strip(), say
    process.stdin.close()
    process.wait(timeout=60)
    process.stdout.close()


@needs_ray
@pytest.mark.slow
def test_a_sweep_outlives_a_machine_of_the_cluster(cluster, tmp_path):
    address, kill = cluster
    gate = tmp_path / "gate"
    process = begin(
        tmp_path, "seed=0,1,2", f"hydra.launcher.address='{address}'", "sweep.retries=2", "data.batch_size=32",
        "model.net._target_=own.Gated", f"+model.net.gate={gate}",
    )  # fmt: skip
    wait_for(lambda: len(list(tmp_path.glob("runs/*/claim.json"))) == 2)  # one on each node, until the gate is there
    kill()
    gate.touch()
    code, out = end(process, tmp_path)
    assert code == 0, out
    assert "worker lost" in out
    assert "3 of 3 cells ok" in out
    assert sorted(record.seed for record in Store(tmp_path).load_all()) == [0, 1, 2]


@needs_ray
@pytest.mark.slow
def test_cells_have_a_gpu_each_and_ctrl_c_stops_them_so_that_they_go_on_later(tmp_path):
    settings = ("seed=0,1", "trainer.max_epochs=60", "hydra.launcher.num_gpus=2", "hydra.launcher.num_cpus=2")
    process = begin(tmp_path, *settings)
    wait_for(lambda: any(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    os.kill(process.pid, signal.SIGINT)
    code, out = end(process, tmp_path)
    assert code == 130, out
    assert "interrupted: stopped by Ctrl-C" in out
    assert out.rstrip().endswith("stopped; the same command resumes from there")
    assert not list(tmp_path.glob("runs/*/claim.json"))
    rows = {file: file.read_text() for file in tmp_path.glob("runs/*/metrics.csv")}
    assert rows
    code, out = end(begin(tmp_path, *settings), tmp_path)
    assert code == 0, out
    assert "2 of 2 cells ok" in out
    assert all(file.read_text().startswith(before) for file, before in rows.items())  # with the seconds they took
    records = Store(tmp_path).load_all()
    assert {record.epochs for record in records} == {60}
    assert sorted(record.hardware["visible_gpus"] for record in records) == ["0", "1"]


def test_a_cell_of_a_queue_has_its_threads_environment_and_folder(tmp_path, monkeypatch):
    def execute(config, sweep):
        return "ok", f"{config['progress']} {sweep} {torch.get_num_threads()} {os.environ['WANDB_MODE']} {Path.cwd()}"

    monkeypatch.setattr(queues, "execute", execute)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.chdir("/")
    before = torch.get_num_threads()
    try:
        ended = queues.at_work({"progress": "bars"}, "mine", str(tmp_path), 3, {"WANDB_MODE": "offline"})
    finally:
        torch.set_num_threads(before)
    assert ended == ("ok", f"none mine 3 offline {tmp_path}")


@needs_ray
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Interrupted(signal.SIGTERM), "worker: stopped by SIGTERM"),
        (
            RuntimeError("cannot import:\n\nTraceback\n  File x\nNo module named 'bench'\n"),
            "worker: No module named 'bench'",
        ),
        (RuntimeError(), "worker: RuntimeError"),
    ],
)
def test_a_cell_whose_worker_ends_with_an_error_is_lost_and_so_tried_again(tmp_path, monkeypatch, error, told):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    cell = Cell("one", {"trainer": {"accelerator": "cpu", "devices": 1}})
    tasks = RayTasks([cell], "sweep", tmp_path)
    left: concurrent.futures.Future = concurrent.futures.Future()
    left.set_exception(ray.exceptions.RayTaskError("at_work", "", error))
    tasks.running[left] = cell
    ended = tasks.wait(1.0)
    assert ended == Ended(cell, "lost", told, str(error).strip() or type(error).__name__)


@needs_ray
def test_cells_that_no_machine_can_run_are_refused(tmp_path, monkeypatch):
    import ray

    def cluster(*machines):
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": has} for has in machines])

    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    config = {"trainer": {"accelerator": "auto", "devices": 2}}
    cluster({"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(ConfigError, match=r"^one: no machine has 8 CPUs and 2 GPUs$"):
        RayTasks([Cell("one", config)], "sweep", tmp_path)
    cluster({"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0})
    RayTasks([Cell("one", config)], "sweep", tmp_path)
    cluster({"memory": 1.0})
    with pytest.raises(ConfigError, match="no processors"):
        RayTasks([Cell("one", config)], "sweep", tmp_path)


@needs_ray
def test_a_cluster_that_is_there_already_has_its_own_processors(tmp_path, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(ConfigError, match=r"^hydra\.launcher\.num_gpus=2: is for a cluster started here; leave"):
        RayTasks([], "sweep", tmp_path, address="auto", num_gpus=2)


@pytest.mark.parametrize(
    ("machines", "cells", "threads"),
    [
        ([{"CPU": 8}], 2, 4),
        ([{"CPU": 8}], 20, 1),
        ([{"CPU": 8}, {"CPU": 2}], 1, 2),  # of the smallest
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], 20, 4),  # of the machines with GPUs
    ],
)
@needs_ray
def test_cells_share_the_processors(tmp_path, monkeypatch, machines, cells, threads):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": has} for has in machines])
    config = {"trainer": {"accelerator": "auto", "devices": 1}}
    assert RayTasks([Cell(str(i), config) for i in range(cells)], "sweep", tmp_path).cpus == threads


def test_a_missing_package_is_told_before_anything_is_written(bench, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    code, _, err = bench("-m", "hydra/launcher=ray", "seed=0,1")
    assert code == 2
    assert "hydra/launcher=ray: needs ray; pip install 'convbench[ray]'" in one_line(err)
    assert not (tmp_path / "results").exists()
