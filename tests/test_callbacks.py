import time
from types import SimpleNamespace

import pytest
import torch

from bench import callbacks, console


class Trainer(SimpleNamespace):
    world_size = 1


def test_throughput_is_images_over_the_time_of_training_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    logged = []
    module = SimpleNamespace(device=torch.device("cpu"), log=lambda name, value: logged.append((name, value)))
    throughput = callbacks.Throughput()
    for seconds in (1.0, 4.0, 2.0):  # an epoch of 10 + 6 images
        throughput.on_train_epoch_start(Trainer(), module)
        for size, last in ((10, False), (6, True)):
            now[0] += seconds / 2
            batch = SimpleNamespace(labels=torch.zeros(size))
            throughput.on_train_batch_end(Trainer(is_last_batch=last), module, None, batch, 0)
        now[0] += 50  # validation and checkpoint
        throughput.on_train_epoch_end(Trainer(), module)
    assert throughput.rates == [16.0, 4.0, 8.0]
    assert logged == [("train_images_per_s", rate) for rate in throughput.rates]
    assert throughput.median() == 8.0


def test_there_is_no_throughput_before_the_first_epoch_has_ended():
    assert callbacks.Throughput().median() is None


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
