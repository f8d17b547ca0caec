"""Runs that are killed and started again end as if nothing had happened, to the bit."""

import csv
import hashlib
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import own
import pytest
import torch
from common import NOISE, images_of_noise
from processes import finish, start

from bench import machine, train
from bench.checkpoint import Checkpoints
from bench.interrupt import Interrupted
from bench.module import Classifier
from bench.store import LAST, BusyError, Store

# NiN draws dropout, the crops of each epoch are drawn anew, and checkpoints are made within epochs, too
CELL = (
    *NOISE, "model=nin", "data.image_size=8", "augment=[crop,cutout]", "augment.cutout.length=4",
    "trainer.max_epochs=4", "trainer.checkpoint_minutes=0.001",
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
    assert record.earlier == []
    return (record.metrics, record.epochs, record.selected_epoch), rows, predictions, weights


def assert_same(one, other):
    assert one[:2] == other[:2]
    for mine, theirs in zip(one[2:], other[2:], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert np.array_equal(np.asarray(value), np.asarray(theirs[key])), key


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Images for six steps an epoch."""
    return images_of_noise(tmp_path_factory.mktemp("images"), 48, 16, 16)


@pytest.fixture(scope="module")
def undisturbed(noise, tmp_path_factory):
    """The result of the run that goes through, and the seconds it took."""
    root = tmp_path_factory.mktemp("undisturbed")
    finish(start(*CELL, noise, "trainer.max_epochs=1", f"paths.results={root / 'warm'}"))  # makes the cache
    begun = time.monotonic()
    assert finish(start(*CELL, noise, f"paths.results={root / 'run'}")) == 0
    return result(root / "run"), time.monotonic() - begun


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_with_the_same_bits(noise, undisturbed, tmp_path):
    wanted, seconds = undisturbed
    seed = random.SystemRandom().randrange(2**32)
    print(f"moments of random.Random({seed})")  # pytest shows it where the test fails
    moments, kills, resumed = random.Random(seed), 0, 0

    def enough():  # some are killed before their first checkpoint
        return kills >= 10 and resumed >= 3

    for run in range(60):
        root = tmp_path / str(run)
        while True:
            resumed += any(root.glob(f"runs/*/{LAST}"))
            process = start(*CELL, noise, f"paths.results={root}")
            process.join(moments.uniform(0, 1.1 * seconds))
            if process.exitcode is not None or enough():
                break
            process.kill()
            process.join()
            kills += 1
        assert finish(process) == 0
        assert_same(result(root), wanted)
        if enough():
            break
    assert enough()


def stop_at(monkeypatch, epoch, batch, how):
    """Let ``how`` happen once, after a batch of an epoch, both counted from 0."""
    told, done = Checkpoints.on_train_batch_end, []

    def watched(self, trainer, module, outputs, given, batch_idx):
        if (trainer.current_epoch, batch_idx) == (epoch, batch) and not done:
            done.append(True)
            how()
        told(self, trainer, module, outputs, given, batch_idx)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", watched)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_within_the_epoch_and_the_run_goes_on_from_there(
    composed, noise, undisturbed, tmp_path, monkeypatch, signum
):
    cfg = composed(*CELL, noise, "progress=none", "trainer.checkpoint_minutes=60")
    stop_at(monkeypatch, 1, 2, lambda: os.kill(os.getpid(), signum))
    handler = signal.getsignal(signum)
    with pytest.raises(Interrupted) as stopped:
        train.run(cfg)
    assert stopped.value.signum == signum
    assert signal.getsignal(signum) == handler
    (record,) = Store(tmp_path / "results").load_all()
    name = "Ctrl-C" if signum == signal.SIGINT else signum.name
    assert (record.status, record.error) == ("interrupted", f"stopped by {name}")
    assert not list((tmp_path / "results").rglob("error.txt"))
    saved = torch.load(Store(tmp_path / "results").path(record.run_id) / LAST, weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (1, 9)
    train.run(cfg)
    assert_same(result(tmp_path / "results"), undisturbed[0])


@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (0, 4), (0, 5), (1, 0), (3, 4), (3, 5)])
def test_stopped_after_any_batch_a_run_ends_with_the_same_bits(
    composed, noise, undisturbed, tmp_path, monkeypatch, epoch, batch
):
    cfg = composed(*CELL, noise, "progress=none", "trainer.checkpoint_minutes=60")
    stop_at(monkeypatch, epoch, batch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train.run(cfg)
    train.run(cfg)
    assert_same(result(tmp_path / "results"), undisturbed[0])


@pytest.mark.parametrize("setting", ["trainer.ema=0.9", "trainer.check_val_every_n_epoch=2"])
def test_an_average_and_rare_validation_go_on_with_the_same_bits(composed, noise, tmp_path, monkeypatch, setting):
    settings = (*CELL, noise, "progress=none", "trainer.checkpoint_minutes=60", setting)
    train.run(composed(*settings, f"paths.results={tmp_path / 'through'}"))
    cfg = composed(*settings)
    for epoch, batch in ((1, 2), (2, 2), (2, 5)):  # within an epoch, and behind its last batch
        with monkeypatch.context() as once:
            stop_at(once, epoch, batch, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted):
                train.run(cfg)
    train.run(cfg)
    assert_same(result(tmp_path / "results"), result(tmp_path / "through"))


def test_a_run_resumed_by_another_commit_tells_both(composed, noise, tmp_path, monkeypatch):
    cfg = composed(*CELL, noise, "progress=none")
    for epoch, commit in ((1, "a"), (2, "b"), (3, "a")):
        with monkeypatch.context() as once:
            once.setattr(machine, "git_sha", lambda commit=commit: commit)
            stop_at(once, epoch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted):
                train.run(cfg)
    monkeypatch.setattr(machine, "git_sha", lambda: "c")
    record = train.run(cfg)
    assert record.git_sha == "c"
    assert [one["git_sha"] for one in record.earlier] == ["b", "a"]  # in the order of their last steps
    for one in record.earlier:
        assert one == {
            "git_sha": one["git_sha"], "hardware": record.hardware, "versions": record.versions,
            "precision": record.precision, "device": "cpu",
        }  # fmt: skip
    assert Store(tmp_path / "results").ok(record.run_id) == record


def test_a_network_whose_layers_have_changed_does_not_go_on(composed, noise, monkeypatch):
    cfg = composed(
        *CELL, noise, "progress=none", "model=lenet", "data.image_size=32", "model.net._target_=own.Changing"
    )
    with monkeypatch.context() as once:
        stop_at(once, 1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train.run(cfg)
    with monkeypatch.context() as once:
        once.setattr("own.Changing.changed", True)
        said = "last.ckpt: is of a network with other layers (scale); force=true trains from scratch"
        assert train.run(cfg).error == said
    record = train.run(cfg)  # once that is undone
    assert (record.status, record.epochs) == ("ok", 4), record.error
    assert record.versions["own"] == hashlib.sha256(Path(own.__file__).read_bytes()).hexdigest()[:10]


def test_a_second_signal_stops_at_once(composed, noise, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    stop_at(monkeypatch, 1, 2, twice)
    with pytest.raises(Interrupted):
        train.run(composed(*CELL, noise, "progress=none", "trainer.checkpoint_minutes=60"))
    (record,) = Store(tmp_path / "results").load_all()
    saved = torch.load(Store(tmp_path / "results").path(record.run_id) / LAST, weights_only=True)
    assert saved["global_step"] == 6  # of the epoch before


def test_a_run_that_failed_after_training_is_only_tested_again(composed, noise, undisturbed, tmp_path, monkeypatch):
    cfg = composed(*CELL, noise, "progress=none")
    with monkeypatch.context() as broken:
        broken.setattr(train, "save_predictions", lambda *_: 1 / 0)
        assert train.run(cfg).status == "failed"
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("was trained again"))
    train.run(cfg)
    assert_same(result(tmp_path / "results"), undisturbed[0])


def test_force_trains_from_the_beginning(composed, noise, undisturbed, tmp_path, monkeypatch):
    cfg = composed(*CELL, noise, "progress=none", "force=true")
    stop_at(monkeypatch, 1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train.run(cfg)
    steps, step = [], Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", lambda *a: (steps.append(1), step(*a))[1])
    train.run(cfg)
    assert len(steps) == 24
    assert_same(result(tmp_path / "results"), undisturbed[0])


class Code:
    """What a malicious checkpoint holds: code that is run when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", ["code", "torn", "empty"])
def test_a_checkpoint_with_code_in_it_or_a_damaged_one_is_refused_and_kept(
    composed, noise, tmp_path, monkeypatch, kind
):
    cfg = composed(*CELL, noise, "progress=none", "trainer.checkpoint_minutes=60")
    stop_at(monkeypatch, 1, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train.run(cfg)
    (last,) = (tmp_path / "results").glob(f"runs/*/{LAST}")
    if kind == "code":
        saved = torch.load(last, weights_only=True)
        torch.save(saved | {"callbacks": Code(tmp_path / "was run")}, last)
    else:
        last.write_bytes(last.read_bytes()[: 1000 if kind == "torn" else 0])
    content = last.read_bytes()
    record = train.run(cfg)
    assert not (tmp_path / "was run").exists()
    assert record.status == "failed"
    assert record.error == (f"{last}: contains code or is damaged, and is not loaded; force=true trains from scratch")
    assert last.read_bytes() == content


@pytest.mark.parametrize("moment", ["building", "batch", "epoch", "testing", "failing"])
def test_a_run_that_another_process_has_taken_over_ends_before_it_writes(
    composed, noise, tmp_path, monkeypatch, moment
):
    minutes = 0.0001 if moment == "batch" else 60
    cfg = composed(*CELL, noise, "progress=none", "trainer.max_epochs=2", f"trainer.checkpoint_minutes={minutes}")
    written = {}

    def there():
        return {file: file.read_bytes() for file in (tmp_path / "results/runs").rglob("*") if file.is_file()}

    def take_over():
        (claim,) = (tmp_path / "results").glob("runs/*/claim.json")
        claim.write_text(claim.read_text().replace('"id": "', '"id": "another'))
        written.update(there())

    def fail():
        take_over()
        raise RuntimeError("fails, too")

    def after(told):
        return lambda *arguments: (told(*arguments), take_over())[0]

    if moment == "building":
        monkeypatch.setattr(train, "build", after(train.build))
    elif moment == "testing":
        monkeypatch.setattr(Classifier, "on_test_start", lambda self: take_over(), raising=False)
    else:
        stop_at(monkeypatch, 1, 5 if moment == "epoch" else 2, fail if moment == "failing" else take_over)
    with pytest.raises(BusyError, match="presumed dead meanwhile; another process is working on it"):
        train.run(cfg)
    if moment not in ("building", "testing"):
        assert {"last.ckpt", "metrics.csv", "selected-1.ckpt"} < {file.name for file in written}
    assert there() == written
