"""Sweeps on Ray, on clusters that this machine plays."""

import datetime
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from common import SHORT, one_line, wait_for

from bench.store import RECORD, Store

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
SWEEP = ("-m", "hydra/launcher=ray", "model=lenet", *SHORT[:-1], "progress=none")


def begin(*arguments):
    """Start ``bench`` in a process of its own."""
    command = [sys.executable, "-m", "bench", *SWEEP, *arguments]
    return subprocess.Popen(
        command, env=os.environ | QUIET, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end(process):
    """Its exit code and output."""
    out, _ = process.communicate(timeout=400)
    return process.returncode, out


@pytest.fixture
def cluster():
    """A function that gives the cluster's address, and one that kills one of its two worker nodes."""
    script = Path(__file__).with_name("ray_cluster.py")
    process = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | QUIET, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
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
    process = begin(
        "seed=0,1,2,3", f"hydra.launcher.address='{address}'", "sweep.retries=2", f"paths.results={tmp_path}",
        "trainer.max_epochs=30",  # seconds, in which a machine can be lost
    )  # fmt: skip

    def both_nodes_train():
        claimed = [claim.parent for claim in tmp_path.glob("runs/*/claim.json")]
        return len(claimed) == 2 and all((run / "metrics.csv").exists() for run in claimed)

    wait_for(both_nodes_train)
    kill()
    code, out = end(process)
    assert code == 0, out
    assert "worker lost" in out
    assert "4 of 4 cells ok" in out
    assert sorted(record.seed for record in Store(tmp_path).load_all()) == [0, 1, 2, 3]


@needs_ray
@pytest.mark.slow
def test_cells_that_run_together_have_a_gpu_each(tmp_path):
    code, out = end(
        begin("seed=0,1,2,3", "hydra.launcher.num_gpus=4", "hydra.launcher.num_cpus=4", f"paths.results={tmp_path}")
    )
    assert code == 0, out
    times = []
    for record in Store(tmp_path).load_all():
        gpu = record.hardware["visible_gpus"]
        assert gpu in {"0", "1", "2", "3"}
        ended = (Store(tmp_path).path(record.run_id) / RECORD).stat().st_mtime
        times.append((datetime.datetime.fromisoformat(record.created_at).timestamp(), ended, gpu))
    together = [(one[2], other[2]) for one, other in itertools.combinations(times, 2)
                if one[0] < other[1] - 1 and other[0] < one[1] - 1]  # fmt: skip
    assert len(together) >= 3  # else nothing was shown
    assert all(one != other for one, other in together)


@needs_ray
@pytest.mark.slow
def test_ctrl_c_stops_the_cells_which_save_and_the_sweep_goes_on_later(tmp_path):
    settings = ("seed=0,1", "trainer.max_epochs=40", "hydra.launcher.num_cpus=2", f"paths.results={tmp_path}")
    process = begin(*settings)
    wait_for(lambda: any(tmp_path.glob("runs/*/checkpoints/last.ckpt")))
    process.send_signal(signal.SIGINT)
    code, out = end(process)
    assert code == 130, out
    assert "interrupted: stopped by Ctrl-C" in out
    assert out.rstrip().endswith("stopped; the same command resumes from there")
    assert not list(tmp_path.glob("runs/*/claim.json"))
    stopped = list(tmp_path.glob("runs/*/checkpoints/last.ckpt"))
    assert stopped
    code, out = end(begin(*settings))
    assert code == 0, out
    assert "2 of 2 cells ok" in out


def test_a_missing_package_is_told_before_anything_is_written(bench, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    code, _, err = bench("-m", "hydra/launcher=ray", "seed=0,1")
    assert code == 2
    assert "hydra/launcher=ray: needs ray; pip install 'convbench[ray]'" in one_line(err)
    assert not (tmp_path / "results").exists()
