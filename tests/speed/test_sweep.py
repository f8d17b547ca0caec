"""``bench-speed sweep``: a sweep as a user runs it, and the time that is not training."""

import json
import subprocess
import sys

import pytest

from bench.speed import sweep
from bench.speed.__main__ import main
from bench.status import cell_line


def test_a_sweep_that_fails_is_told_in_a_line(call, tmp_path, monkeypatch, make_record):
    said = cell_line(make_record(status="failed", error="a reason"), None)
    program, start = f"print('a line\\n{said}\\nthe end'); raise SystemExit(1)", subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **how: start([sys.executable, "-c", program], **how))
    code, _, err = call(main, "sweep", f"paths.results={tmp_path}")
    assert (code, err) == (1, f"bench-speed: the sweep has failed: {said}\n")
    assert not (tmp_path / "speed").exists()


@pytest.mark.slow
def test_the_time_beside_the_training_is_told_for_each_cell(call, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "CELLS", 2)
    code, out, err = call(main, "sweep", "data=digits", "trainer.max_epochs=1", f"paths.results={tmp_path}")
    assert (code, err) == (0, "")
    assert "2 cells of LeNet on digits, 1 epoch each" in out
    told = json.loads((tmp_path / "speed/sweep.json").read_text())["results"]
    assert len(told["fit_seconds"]) == len(told["beside_fit_seconds"]) == 2
    assert all(seconds > 0 for seconds in told["fit_seconds"] + told["beside_fit_seconds"])
    assert told["wall_seconds"] == pytest.approx(told["ratio"] * sum(told["fit_seconds"]))
    assert told["wall_seconds"] > sum(told["fit_seconds"]) + sum(told["beside_fit_seconds"])  # it ends after its cells
