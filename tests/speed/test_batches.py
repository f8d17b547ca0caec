"""Costs in use, measured on a few images: what is told, not how fast it is."""

import csv
import itertools
import json
import os
import signal

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from bench import config
from bench.assemble import build
from bench.data.loader import Batch
from bench.models import Output
from bench.module import Classifier
from bench.profile import main
from bench.speed import batches, synthetic
from bench.speed.turns import Done

CPU = torch.device("cpu")


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))

    def forward(self, x):
        return Output(self.layers(x))


def two():
    return Classifier(Two(), 10, None, None)


@pytest.mark.parametrize("images", [1, 5, 64])
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        # the image; ReLU's output, and again in the linear layer's order; the logarithms of the softmax; the label
        (torch.float32, 4 * (3 * 16 + 2 * 8 * 16 + 10) + 8),
        # the loss and its softmax stay in 32 bits
        (torch.bfloat16, 2 * (3 * 16 + 2 * 8 * 16) + 4 * 10 + 8),
    ],
)
def test_activations_are_what_the_backward_pass_needs_of_an_image(dtype, expected, images):
    batch = Batch(torch.zeros(images, 3, 4, 4, dtype=dtype), torch.zeros(images, dtype=torch.int64))
    assert batches.activation_bytes(two(), batch, dtype) == expected


def test_measuring_training_takes_whole_steps_that_leave_the_weights_as_they_are(monkeypatch):
    monkeypatch.setattr(batches, "SECONDS", 0.0)
    module = two()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    begun = []
    told = batches.training(
        module, optimizer, scheduler, Batch(torch.randn(5, 3, 4, 4), torch.arange(5)), torch.float32,
        begin=lambda: begun.append(scheduler.last_epoch),
    )  # fmt: skip
    assert begun == [0]  # no step was taken before
    assert set(told) >= {"seconds", "images_per_s", "activation_bytes"}
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_a_turn_is_the_median_of_calls(monkeypatch):
    monkeypatch.setattr(batches, "SECONDS", 0.0)
    clock = itertools.count()
    calls = []
    monkeypatch.setattr(batches.time, "perf_counter", lambda: float(next(clock)))
    told = batches.timed(lambda: calls.append(1), 4, CPU)
    assert (told["seconds"], told["images_per_s"]) == (1.0, 4.0)
    assert len(calls) == 1 + batches.CALLS


def test_a_point_is_the_median_of_its_rounds_and_their_highest_peak():
    turns = [Done(4, peak, {"seconds": s, "images_per_s": 4 / s}) for s, peak in ((0.5, 7), (2.0, 9), (1.0, 8))]
    point = batches.point("lenet", "inference", 4, turns)
    assert (point.milliseconds, point.images_per_s, point.peak_bytes) == (1000.0, 4.0, 9)
    assert (point.activation_bytes, point.joules) == (None, None)


@pytest.mark.parametrize(("settings", "classes"), [(["data=flowers102"], 102), (["data.num_classes=1000"], 1000)])
def test_the_random_images_have_the_classes_of_the_data_set(tmp_path, settings, classes):
    cfg = synthetic.composed(["model=lenet", "trainer.precision=32-true", f"paths.cache={tmp_path}", *settings], 5)
    data, module = build(cfg, config.check(cfg), CPU)
    (batch,) = data.loader(data.train)
    assert module.model(batch.images).logits.shape == (5, classes)


def test_a_figure_is_drawn_also_where_all_of_a_mode_failed():
    one = batches.Point("lenet", "inference", 1, 1.0, 1000.0, 2**30, None, None)
    assert len(batches.draw([one], "png")) > 5000
    assert len(batches.draw([one._replace(mode="training")], "png")) > 5000


@pytest.mark.slow
def test_a_row_a_model_and_a_line_a_point_are_written(forked, call, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "ROUNDS", 1)
    arguments = ("--measure", "model=lenet,googlenet_bn", "batches=4,1", "data=cifar10", "trainer.accelerator=cpu")
    code, out, err = call(main, *arguments, f"paths.results={tmp_path}")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("written"))
    assert "…" not in out
    folder = tmp_path / "speed"
    rows = list(csv.DictReader((folder / "profile.csv").read_text().splitlines()))
    assert [(row["model"], row["mode"], row["batch"]) for row in rows] == [
        (model, mode, batch) for model in ("lenet", "googlenet_bn") for mode in batches.MODES for batch in ("1", "4")
    ]
    for row in rows:
        assert float(row["milliseconds"]) > 0
        assert float(row["images_per_s"]) > 0
        assert int(row["peak_bytes"]) > 100 * 2**20
        assert (row["activation_bytes"] != "") == (row["mode"] == "training")
    # before the first pooling three times 32×32 values in 64 channels are kept, of 16 or 32 bits
    assert all(float(row["activation_bytes"]) > 3 * 2 * 64 * 1024 for row in rows[6:])
    assert len(json.loads((folder / "profile.json").read_text())["results"]) == 8
    text = (folder / "profile.md").read_text()
    assert text.startswith("# bench-profile --measure\n")
    assert "| lenet | 62k | 652k |" in text
    assert "googlenet_bn" in (folder / "profile.svg").read_text()
    assert "mathdefault" not in (folder / "profile.svg").read_text()
    assert (folder / "profile.png").stat().st_size > 5000


@pytest.mark.slow
def test_what_fails_is_told_and_the_rest_is_measured(forked, call, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "work", failing)
    code, _, err = call(main, "--measure", "model=nin,zfnet", "batches=1,4", f"paths.results={tmp_path}")
    assert code == 1
    assert err.splitlines() == [
        "bench-profile: nin: a process of the comparison was lost: SIGKILL",
        "zfnet, training, batch of 4: OutOfMemoryError: too much",
    ]
    rows = list(csv.DictReader((tmp_path / "speed/profile.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["zfnet"] * 3
    assert "| zfnet |" in (tmp_path / "speed/profile.md").read_text()


def failing(line, settings, sizes):
    if "model=nin" in settings:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        for mode in batches.MODES:
            for size in sizes:
                line.recv()
                bad = "model=zfnet" in settings and (mode, size) == ("training", 4)
                line.send(Done(size, 1, {"seconds": 0.5, "images_per_s": 2.0}, "OutOfMemoryError: too much" * bad))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["batches=1,many"], "batches=1,many: must be whole numbers above 0 with commas between them"),
        (["batches=0"], "batches=0: must be whole numbers above 0"),
        (["model=nix"], "model=nix: no such option"),
        (["model=vgg16", "data.image_size=28"], "image_size=28: VGG needs at least 32 pixels"),
        (["data=folder"], "data=folder: random images are used"),
        (["--all"], "--all: does not work with --measure"),
        (["out=a.csv"], "out=a.csv: does not work with --measure"),
        (["lenet"], "lenet: write it as setting=value"),
    ],
)
def test_a_mistake_is_told_in_a_line(call, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(main, "--measure", *arguments)
    assert code == 2
    assert err.startswith("bench-profile: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
