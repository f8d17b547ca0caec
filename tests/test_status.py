import json
import subprocess
import sys
import time

import pytest

from bench import status
from bench.errors import ConfigError
from bench.store import Store


@pytest.fixture
def sweep(tmp_path, make_record):
    """A sweep of five cells: one done, one failed, one running, one cut off, one waiting."""
    store, names = Store(tmp_path), [f"digits-lenet-s{seed}-0123456789" for seed in range(5)]
    folder = tmp_path / "sweeps/20260102-030405"
    folder.mkdir(parents=True)
    plans = {
        name: {"overrides": ["+sweep=five", "model=lenet", f"seed={i}"], "epochs": 4, "force": False}
        for i, name in enumerate(names)
    }
    state = {"cells": plans, "started": time.time() - 60}
    (folder / status.PLAN).write_text(json.dumps(state))
    for seed, outcome in ((0, "ok"), (1, "failed")):
        work = store.workspace(names[seed])
        (work.path / "error.txt").write_text("Traceback")
        error = None if outcome == "ok" else "ValueError: why"
        store.publish(make_record(seed=seed, status=outcome, error=error, fit_seconds=8.0, epochs=4), work)
    for seed in (2, 3):
        work = store.workspace(names[seed])
        (work.path / "metrics.csv").write_text("epoch,seconds,val_top1\n1,3.0,0.5\n2,6.0,0.75\n")
        if seed == 3:
            work.claim.release()
    return store, state


def test_the_states_of_cells_are_told_from_files_alone(sweep):
    store, state = sweep
    cells = status.cells_of(store, state)
    assert [cell.state for cell in cells] == ["done", "failed", "running", "cut off", "waiting"]
    # 2 of 4 epochs of 3 s each are left of the third and of the fourth, and 8 s, as the first one took, of the last
    assert status.remaining(cells) == pytest.approx(6 + 6 + 8)
    assert status.summary(cells) == "1 done, 1 running, 1 failed, 1 cut off, 1 waiting; about 20 s left"
    assert status.best(cells) == "lenet 90.0% on digits (stratified)"


def test_a_cell_that_was_stopped_shows_how_far_it_came(sweep, make_record):
    store, state = sweep
    work = store.workspace("digits-lenet-s4-0123456789")
    (work.path / "metrics.csv").write_text("epoch,seconds,val_top1\n1,3.0,0.5\n2,6.0,0.75\n3,9.0,\n")
    store.publish(make_record(seed=4, status="interrupted", error="stopped by Ctrl-C", metrics={}, epochs=None), work)
    last = status.cells_of(store, state)[-1]
    assert (last.state, len(last.rows)) == ("interrupted", 3)
    assert [[*column.cells] for column in status._table("a", [last]).columns[2:]] == [["3/4"], ["75.0%"], ["9 s"]]
    again = store.workspace("digits-lenet-s0-0123456789")  # beside its ok record, which stays
    (again.path / "metrics.csv").write_text("epoch,seconds\n1,3.0\n")
    store.publish(make_record(seed=0, status="failed", error="ValueError: no", metrics={}, epochs=None), again)
    state["cells"]["digits-lenet-s0-0123456789"]["force"] = True
    first = status.cells_of(store, state)[0]
    assert (first.state, len(first.rows)) == ("failed", 1)


def test_an_interrupted_cell_is_yet_to_be_done(sweep, make_record):
    store, state = sweep
    work = store.workspace("digits-lenet-s4-0123456789")
    (work.path / "metrics.csv").write_text("epoch,seconds\n1,3.0\n2,6.0\n3,9.0\n")
    record = make_record(seed=4, status="interrupted", error="out of time", metrics={}, epochs=None)
    store.publish(record, work)
    cells = status.cells_of(store, state)
    assert status.summary(cells) == "1 done, 1 running, 1 failed, 1 interrupted, 1 cut off; about 15 s left"
    # its queue begins another in its place, beside the one that runs
    assert status.cell_line(record, cells).endswith("interrupted, out of time; 3 left, about 8 s")


def test_a_cell_tells_of_the_last_epoch_that_was_validated():
    rows = [{"epoch": "1", "val_top1": "0.75"}, {"epoch": "2", "val_top1": "0.5"}, {"epoch": "3", "val_top1": ""}]
    assert status.CellState("a", "running", None, rows, 4).val_top1() == 0.5
    assert status.CellState("a", "running", None, rows[2:], 4).val_top1() is None
    assert status.CellState("a", "running", None, [{"epoch": "1"}], 4).val_top1() is None


def test_the_time_left_is_shared_by_those_that_run(sweep, make_record):
    store, state = sweep
    store.workspace("digits-lenet-s3-0123456789")
    cells = status.cells_of(store, state)
    assert [cell.state for cell in cells][2:4] == ["running", "running"]
    assert cells[3].rows == []  # begun anew: nothing was there to go on from
    assert status.remaining(cells) == pytest.approx((6 + 8 + 8) / 2)


def test_nothing_is_foretold_before_anything_is_known(tmp_path):
    state = {"cells": {"digits-lenet-s0-0123456789": {"overrides": [], "epochs": 4, "force": False}}, "started": 0.0}
    cells = status.cells_of(Store(tmp_path), state)
    assert status.remaining(cells) is None
    assert status.summary(cells) == "1 waiting"


def test_nothing_is_foretold_of_a_network_by_another(make_record):
    lenet = [status.CellState(f"digits-lenet-s{i}-0123456789", "done", make_record(seed=i), [], 4) for i in (0, 1)]
    waiting = [
        status.CellState(f"digits-{model}-s2-0123456789", "waiting", None, [], 4) for model in ("lenet", "vgg16")
    ]
    assert status.remaining([*lenet, waiting[0]]) == pytest.approx(2.0)
    assert status.remaining([*lenet, *waiting]) is None


def test_a_record_from_before_the_sweep_that_is_not_ok_does_not_count(tmp_path, make_record):
    store, record = Store(tmp_path), make_record(status="failed", error="earlier")
    store.publish(record, store.workspace(record.run_id))
    state = {"cells": {record.run_id: {"overrides": [], "epochs": 4}}, "started": time.time() + 60}  # of an old plan
    assert [cell.state for cell in status.cells_of(store, state)] == ["waiting"]


@pytest.mark.parametrize(("force", "seen"), [(False, "done"), (True, "waiting")])
def test_an_ok_record_from_before_the_sweep_is_no_result_of_a_forced_cell(tmp_path, make_record, force, seen):
    store, record = Store(tmp_path), make_record()
    store.publish(record, store.workspace(record.run_id))
    state = {"cells": {record.run_id: {"overrides": [], "epochs": 4, "force": force}}, "started": time.time() + 60}
    assert [cell.state for cell in status.cells_of(store, state)] == [seen]


def test_a_forced_command_does_not_go_on():
    assert status.goes_on(force=False) == "the same command resumes from there"
    assert status.goes_on(force=True) == "with force=true the same command starts over"


def test_what_is_not_ok_is_listed_with_its_traceback_and_command(sweep):
    store, state = sweep
    lines = status.not_ok(store, state, status.cells_of(store, state))
    assert lines[0] == "  digits-lenet-s1-0123456789  failed: ValueError: why"
    assert lines[1] == f"    traceback: {store.root}/runs/digits-lenet-s1-0123456789/error.txt"
    assert lines[2] == "    again: bench model=lenet seed=1"


@pytest.mark.parametrize(
    ("seconds", "said"), [(40, "40 s"), (99.4, "99 s"), (720, "12 min"), (5399, "90 min"), (12600, "3.5 h")]
)
def test_durations(seconds, said):
    assert status.duration(seconds) == said


def test_the_command_needs_no_pytorch_and_fits_80_columns(sweep):
    store, _ = sweep
    program = f"""
import sys
sys.argv = ["bench-status", "paths.results={store.root}"]
from bench.status import main
main()
heavy = sorted({{"torch", "lightning"}} & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "2/4" in done.stdout
    assert "75.0%" in done.stdout
    assert "1 done, 1 running, 1 failed, 1 cut off, 1 waiting; about 20 s left" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep=nope"], "sweep=nope: no such sweep; available: 20260102-030405"),
        (["nope"], "nope: no such setting; write one of paths.results=…, sweep=…"),
        (["paths.results=/nowhere"], "paths.results=/nowhere: contains no sweep"),
    ],
)
def test_mistakes_are_told_in_a_line(call, sweep, arguments, said):
    store, _ = sweep
    own = () if arguments[0].startswith("paths.results=") else (f"paths.results={store.root}",)
    code, _, err = call(status.main, *own, *arguments)
    assert code == 2
    assert err == f"bench-status: {said}\n"


def test_sweeps_are_told_in_the_order_they_started(tmp_path):
    for name, started in (("baseline", 1000.0), ("20260101-000000", 2000.0), ("20250101-000000", 3000.0)):
        folder = tmp_path / "sweeps" / name
        folder.mkdir(parents=True)
        (folder / status.PLAN).write_text(json.dumps({"cells": {}, "started": started}))
    plans = status.sweeps(Store(tmp_path))
    assert list(plans) == ["baseline", "20260101-000000", "20250101-000000"]
    assert status.one_of(plans, "") == "20250101-000000"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"cells": {}}', '{"cells": [], "started": 1}'])
def test_a_plan_that_cannot_be_read_is_named_and_the_others_are_told(tmp_path, text):
    for name, plan in (("good", '{"cells": {}, "started": 1}'), ("bad", text)):
        folder = tmp_path / "sweeps" / name
        folder.mkdir(parents=True)
        (folder / status.PLAN).write_text(plan)
    with pytest.warns(UserWarning, match="bad/plan.json: skipped"):
        assert list(status.sweeps(Store(tmp_path))) == ["good"]


def test_of_many_sweeps_the_last_are_named():
    plans = dict.fromkeys("abcdefg")
    assert status.one_of(plans, "") == "g"
    with pytest.raises(ConfigError, match="^sweep=x: no such sweep; available: …, c, d, e, f, g$"):
        status.one_of(plans, "x")
    with pytest.raises(ConfigError, match="available: a, b$"):
        status.one_of(dict.fromkeys("ab"), "x")
