import csv
import time
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from common import SHORT

from bench import callbacks, console, train


class Trainer(SimpleNamespace):
    world_size = 1
    enable_validation, check_val_every_n_epoch = True, 1


class Peak:
    """Stands for the machine's peak memory."""

    def __init__(self, value):
        self.value = value

    def read(self):
        return self.value


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_throughput_is_images_over_the_time_of_training_alone(clock):
    logged = []
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda name, value: logged.append((name, value)))
    meter = callbacks.Meter(Peak(0))
    for seconds in (1.0, 4.0, 2.0):  # an epoch of 10 + 6 images
        meter.on_train_epoch_start(Trainer(), module)
        for size in (10, 6):
            clock[0] += seconds / 2
            meter.on_train_batch_end(Trainer(), module, None, SimpleNamespace(labels=torch.zeros(size)), 0)
        meter.on_validation_start(Trainer(), module)
        clock[0] += 50
        meter.on_train_epoch_end(Trainer(), module)
    assert meter.rates == [16.0, 4.0, 8.0]
    assert logged == [("train_images_per_s", rate) for rate in meter.rates]
    assert meter.median() == 8.0
    assert meter.seconds() == 157.0


def test_a_meter_goes_on_from_an_earlier_try(clock):
    first = callbacks.Meter(Peak(2000))
    first.rates.append(5.0)
    clock[0] += 30
    saved = first.state_dict()
    clock[0] += 1000  # lost with the process, and the time until somebody tries again
    second = callbacks.Meter(Peak(1000))
    second.load_state_dict(saved)
    clock[0] += 12
    assert (second.seconds(), second.rates, second.peak_bytes()) == (42.0, [5.0], 2000)


def test_an_epoch_that_is_resumed_is_measured_from_there(clock):
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda name, value: None)
    meter = callbacks.Meter(Peak(0))
    clock[0] += 1000  # images are decoded, the checkpoint is read
    meter.on_train_start(Trainer(), module)  # Lightning does not start the epoch again
    clock[0] += 2
    meter.on_train_batch_end(Trainer(), module, None, SimpleNamespace(labels=torch.zeros(6)), 0)
    meter.on_train_epoch_end(Trainer(), module)
    assert meter.rates == [3.0]


def test_there_is_no_throughput_before_the_first_epoch_has_ended():
    assert callbacks.Meter(Peak(0)).median() is None


def test_the_table_has_a_row_an_epoch_and_goes_on_from_a_checkpoint(tmp_path):
    shown = []

    def epoch(table, number, **logged):
        metrics = {name.replace("_", "/", 1): torch.tensor(value) for name, value in logged.items()}
        table.on_train_epoch_end(Trainer(current_epoch=number, callback_metrics=metrics, is_global_zero=True), None)

    table = callbacks.EpochTable(tmp_path / "metrics.csv", callbacks.Meter(Peak(0)), shown.append)
    epoch(table, 0, val_top1=0.5, train_top1=0.25, lr=0.1)
    saved = table.state_dict()
    epoch(table, 1, val_top1=0.75, train_top1=0.5, lr=0.1)  # not in the checkpoint, so it will come again
    resumed = callbacks.EpochTable(tmp_path / "metrics.csv", callbacks.Meter(Peak(0)), shown.append)
    resumed.load_state_dict({"rows": list(saved["rows"][:1])})
    epoch(resumed, 1, val_top1=0.75, train_top1=0.5, lr=0.1)
    assert [row["epoch"] for row in resumed.rows] == [1, 2]
    assert len(shown) == 3
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,seconds,lr,train_top1,val_top1"
    assert [line.split(",")[3:] for line in lines[1:]] == [["0.25", "0.5"], ["0.5", "0.75"]]


def test_the_table_is_empty_where_validation_was_not_due(tmp_path):
    table = callbacks.EpochTable(tmp_path / "metrics.csv", callbacks.Meter(Peak(0)))
    for number, val in enumerate((None, 0.5, 0.5, 0.75)):  # Lightning's metrics keep what was measured last
        metrics = {"train/top1": torch.tensor(0.25)} | ({} if val is None else {"val/top1": torch.tensor(val)})
        trainer = Trainer(
            current_epoch=number, callback_metrics=metrics, is_global_zero=True, check_val_every_n_epoch=2
        )
        table.on_train_epoch_end(trainer, None)
    assert ["val_top1" in row for row in table.rows] == [False, True, False, True]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,seconds,train_top1,val_top1"
    assert [line.split(",")[2:] for line in lines[1:]] == [["0.25", val] for val in ("", "0.5", "", "0.75")]


ROW = {"epoch": 2, "train_top1": 0.5, "val_top1": 0.25, "train_images_per_s": 1234.5}


def test_lines_tell_an_epoch_each(capsys):
    bars, on_row = callbacks.progress("lines", "nin", 3)
    on_row(ROW)
    on_row({key: value for key, value in ROW.items() if key != "val_top1"})
    assert bars == []
    assert capsys.readouterr().out.splitlines() == [
        "  nin epoch 2/3: train 50.0%, val 25.0%, 1,234 images/s",
        "  nin epoch 2/3: train 50.0%, 1,234 images/s",
    ]


@pytest.mark.parametrize(("terminal", "bars"), [(True, 1), (False, 0)])
def test_auto_draws_a_bar_on_a_terminal_only(monkeypatch, terminal, bars):
    monkeypatch.setattr(console, "live", lambda: terminal)
    assert len(callbacks.progress("auto", "nin", 3)[0]) == bars


def test_a_bar_prints_no_lines_and_none_prints_nothing(capsys):
    for shown in ("bar", "none"):
        callbacks.progress(shown, "nin", 3)[1](ROW)
    assert capsys.readouterr().out == ""


def test_the_bar_is_named_after_the_network_and_counts_epochs_from_1():
    (bar,), _ = callbacks.progress("bar", "nin", 3)
    assert bar._get_train_description(0) == "nin 1/3"


def test_a_callback_may_stop_a_run_without_validation_images(composed):
    class Enough(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    cfg = composed("model=lenet", *SHORT, "progress=none", "data.val_size=0", "trainer.max_epochs=5")
    record = train.run(cfg, watchers=[Enough()])
    assert (record.status, record.epochs, record.selected_epoch) == ("ok", 2, 2), record.error


def test_a_callback_may_stop_a_run_within_an_epoch_and_before_the_first_validation(composed, tmp_path):
    class Enough(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = (trainer.current_epoch, batch_idx) == (1, 3)

    cfg = composed("model=lenet", *SHORT, "progress=none", "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=5")
    record = train.run(cfg, watchers=[Enough()])
    assert (record.status, record.epochs, record.selected_epoch) == ("ok", 2, 2), record.error
    with (tmp_path / "results/runs" / record.run_id / "metrics.csv").open() as file:
        assert len({row["train_images_per_s"] for row in csv.DictReader(file)}) == 2
