"""Runs that are killed and started again end as if nothing had happened, to the bit."""

import csv
import os
import random
import time

import numpy as np
import pytest
import torch
from common import SHORT
from processes import finish, start

from bench.store import LAST, Store

# AlexNet draws dropout, the crops of each epoch are drawn anew, and checkpoints are made within epochs, too
CELL = (
    "model=alexnet", "augment=[crop,cutout]", *SHORT, "trainer.max_epochs=3", "trainer.checkpoint_minutes=0.004",
)  # fmt: skip
MEASURED = ("seconds", "train_images_per_s")


def result(root):
    """All that a finished run leaves and that is not a time: the record's numbers, rows, predictions, weights."""
    (record,) = Store(root).load_all()
    assert record.status == "ok", record.error
    folder = Store(root).path(record.run_id)
    with (folder / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]
    predictions = dict(np.load(folder / "predictions.npz"))
    weights = torch.load(folder / "checkpoints/selected.ckpt", weights_only=True)["state_dict"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["selected.ckpt"]
    return (record.metrics, record.epochs, record.selected_epoch), rows, predictions, weights


def assert_same(one, other):
    assert one[:2] == other[:2]
    for mine, theirs in zip(one[2:], other[2:], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert np.array_equal(np.asarray(value), np.asarray(theirs[key])), key


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result of the run that goes through, and the seconds it took."""
    root = tmp_path_factory.mktemp("undisturbed")
    begun = time.monotonic()
    assert finish(start(*CELL, f"paths.results={root}")) == 0
    return result(root), time.monotonic() - begun


@pytest.mark.slow
def test_killed_at_twenty_random_moments_a_run_ends_with_the_same_bits(undisturbed, tmp_path):
    wanted, seconds = undisturbed
    moments, kills, resumed = random.Random(os.getpid()), 0, 0
    for run in range(60):
        settings = (*CELL, f"paths.results={tmp_path / str(run)}")
        while True:
            resumed += any((tmp_path / str(run)).glob(f"runs/*/{LAST}"))
            process = start(*settings)
            time.sleep(moments.uniform(0, 1.2 * seconds))
            if process.exitcode is not None or kills == 20:
                break
            process.kill()
            process.join()
            kills += 1
        assert finish(process) == 0
        assert_same(result(tmp_path / str(run)), wanted)
        if kills == 20:
            break
    assert kills == 20
    assert resumed >= 5  # the others were killed before their first checkpoint
