"""Costs in use, measured on a few images: what is told, not how fast it is."""

import csv
import json

import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from bench.data.loader import Batch
from bench.models import Output
from bench.module import Classifier
from bench.profile import main
from bench.speed import costs
from bench.speed.turns import Done


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))

    def forward(self, x):
        return Output(self.layers(x))


def test_activations_are_what_the_backward_pass_needs():
    module = Classifier(Two(), 10, None, None)
    batch = Batch(torch.zeros(5, 3, 4, 4), torch.zeros(5, dtype=torch.int64))
    # of ReLU its output, which is the linear layer's input, too; of the loss the logarithms of the softmax; and the
    # number of images that the mean divides by
    expected = 4 * 5 * (8 * 16 + 10) + 4
    assert costs.activation_bytes(module, batch, torch.float32) == expected


def test_measuring_training_leaves_the_weights_as_they_are():
    module = Classifier(Two(), 10, None, None)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    batch = Batch(torch.randn(5, 3, 4, 4), torch.arange(5))
    costs.train(module, optimizer, batch, torch.float32)
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))


def test_a_point_is_the_median_of_calls_that_are_each_waited_for(monkeypatch):
    monkeypatch.setattr(costs, "SECONDS", 0.0)
    calls = []
    clock = iter(range(1000))
    monkeypatch.setattr(costs.time, "perf_counter", lambda: float(next(clock)))
    told = costs.timed(lambda: calls.append(1), 4, torch.device("cpu"))
    assert told["seconds"] == 1.0
    assert len(calls) == 2 + costs.CALLS
    point = costs.point("lenet", "inference", 4, 2**20, told)
    assert (point.milliseconds, point.images_per_s) == (1000.0, 4.0)


@pytest.mark.slow
def test_a_row_a_model_and_a_line_a_point_are_written(call, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "SECONDS", 0.0)
    arguments = ("--measure", "model=lenet,nin_bn", "batches=4,1", "data=cifar10", "trainer.accelerator=cpu")
    code, out, err = call(main, *arguments, f"paths.results={tmp_path}")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("written"))
    folder = tmp_path / "speed"
    rows = list(csv.DictReader((folder / "profile.csv").read_text().splitlines()))
    assert [(row["model"], row["mode"], row["batch"]) for row in rows] == [
        (model, mode, batch) for model in ("lenet", "nin_bn") for mode in costs.MODES for batch in ("1", "4")
    ]
    for row in rows:
        images_per_s = int(row["batch"]) / (float(row["milliseconds"]) / 1000)
        assert float(row["images_per_s"]) == pytest.approx(images_per_s)
        assert int(row["peak_bytes"]) > 100 * 2**20
        assert (row["activation_bytes"] != "") == (row["mode"] == "training")
    # of 32×32 values in 192 channels alone three are kept, of 16 or 32 bits
    assert all(float(row["activation_bytes"]) > 3 * 2 * 192 * 1024 for row in rows[6:])
    assert len(json.loads((folder / "profile.json").read_text())["results"]) == 8
    assert "| lenet | 62k | 652k |" in (folder / "profile.md").read_text()
    assert "nin_bn" in (folder / "profile.svg").read_text()
    assert (folder / "profile.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_model_that_fails_is_told_and_the_others_are_measured(call, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "SECONDS", 0.0)
    monkeypatch.setattr(costs, "work", failing)
    code, _, err = call(main, "--measure", "model=lenet,nin", "batches=1", f"paths.results={tmp_path}")
    assert code == 1
    assert err == "bench-profile: nin: a process of the comparison ended with 3\n"
    assert "| lenet |" in (tmp_path / "speed/profile.md").read_text()


def failing(line, settings, batches):
    if "model=nin" in settings:
        raise SystemExit(3)
    for _ in costs.MODES:
        line.recv()
        line.send(Done(1, 1, {"seconds": 0.5}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["batches=1,many"], "batches=1,many: must be whole numbers above 0 with commas between them"),
        (["batches=0"], "batches=0: must be whole numbers above 0"),
        (["model=nix"], "model=nix: no such option"),
        (["model=vgg16", "data.image_size=28"], "image_size=28: VGG needs at least 32 pixels"),
        (["--all"], "--all: goes without --measure"),
        (["out=a.csv"], "out=a.csv: goes without --measure"),
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
