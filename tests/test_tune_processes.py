"""bench-tune by processes that are killed, and by several at once."""

import contextlib
import functools
import os
import signal

import pytest
from common import wait_for
from processes import command, finish

pytest.importorskip("optuna")

from optuna.trial import TrialState
from searches import CELL, states, trials

from bench import tune
from bench.store import Store


def start(root, *arguments):
    """Begin a search in a process of its own, and the file of what it prints."""
    log = root / f"{len(list(root.glob('*.txt')))}.txt"
    log.touch()
    return command(tune.main, *arguments, f"paths.results={root / 'results'}", log=log), log


def in_the_middle(finished, there):
    """Whether so many trials have finished and one is at work."""
    done = sum(trial.state.is_finished() for trial in there)
    return done >= finished and there[-1].state == TrialState.RUNNING and there[-1].params


def trials_once(root, condition):
    """The trials once they meet the condition."""
    there = []

    def met():
        if list(root.glob("results/studies/*.log")):
            with contextlib.suppress(KeyError):  # no study in it yet
                there[:] = trials(root)
        return condition(there)

    wait_for(met)
    return there


@pytest.mark.slow
def test_a_search_is_killed_twice_and_loses_no_trial(tmp_path):
    cell, seen = (*CELL, "trainer.max_epochs=2", "trials=6"), {}
    for finished in (1, 3):
        process, _ = start(tmp_path, *cell)
        trials_once(tmp_path, functools.partial(in_the_middle, finished))
        process.kill()
        process.join()
        seen |= {trial.number: trial.params for trial in trials(tmp_path)}
    process, _ = start(tmp_path, *cell)
    assert finish(process) == 0
    there = trials(tmp_path)
    assert [trial.state.is_finished() for trial in there] == [True] * 6
    assert {number: there[number].params for number in seen} == seen
    assert len({trial.user_attrs["run_id"] for trial in there}) == 6
    assert len(Store(tmp_path / "results").load_all()) == 6


@pytest.mark.slow
def test_two_processes_share_a_study_and_run_no_trial_twice(tmp_path):
    both = [start(tmp_path, *CELL, "trials=6") for _ in range(2)]
    assert [finish(process) for process, _ in both] == [0, 0]
    assert states(tmp_path) == ["COMPLETE"] * 6
    assert len({trial.params["optimizer.lr"] for trial in trials(tmp_path)}) == 6
    told = [
        [line.split()[1] for line in log.read_text().splitlines() if line.startswith("trial ") and ":" in line]
        for _, log in both
    ]
    assert all(told)
    assert sorted(int(number) for part in told for number in part) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_trial_is_taken_over_from_a_process_that_dies_by_one_that_waits(tmp_path):
    cell = (*CELL, "trainer.max_epochs=8", "trials=1", "prune=none")
    first, _ = start(tmp_path, *cell)
    (before,) = trials_once(tmp_path, lambda there: there and there[0].intermediate_values)
    os.kill(first.pid, signal.SIGSTOP)  # alive, but it does not get on
    second, log = start(tmp_path, *cell)
    wait_for(lambda: "running elsewhere" in log.read_text())
    first.kill()
    assert finish(second) == 0
    (after,) = trials(tmp_path)
    assert after.state == TrialState.COMPLETE
    assert after.params == before.params
    assert "resumes from its last checkpoint" in log.read_text()
