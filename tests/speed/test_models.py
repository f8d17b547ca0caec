"""The comparison of training steps, made small: what is compared, not how fast it is."""

import json

import pytest
import torch

from bench.models.kernels import LocalResponseNorm
from bench.models.winograd import Conv2d, as_pytorchs
from bench.speed import models
from bench.speed.__main__ import main
from bench.speed.kernels import PAIRS, calls

CPU = torch.device("cpu")
TWINS = {twins.name: twins for twins in models.TWINS}


def gradients(net: torch.nn.Module) -> list[torch.Tensor]:
    """Those that a training step leaves, before it clears them."""
    torch.manual_seed(1)
    images, labels = torch.randn(4, 3, 64, 64), torch.randint(1000, (4,))
    kept = []
    net.zero_grad = lambda: kept.extend(p.grad.clone() for p in net.parameters())
    assert models.step(net.train(), images, labels, torch.float32)() == 4
    return kept


@pytest.mark.parametrize("name", ["alexnet", "googlenet"])
def test_both_networks_take_the_same_step(name):
    torch.manual_seed(0)
    nets = models.twins(TWINS[name])
    # batch norm over few images amplifies rounding errors, which are larger with fewer multiplications
    as_pytorchs(nets["ours"])
    assert list(nets) == ["ours", "torchvision"]
    ours, theirs = map(gradients, nets.values())
    assert [g.shape for g in ours] == [g.shape for g in theirs]
    assert len(ours) > 10
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-7


def test_every_size_of_every_network_is_one_torchvision_takes():
    for twins in models.TWINS:
        with torch.device("meta"):
            net = twins.theirs().eval()
        for size, _ in twins.images:
            assert net(torch.empty(1, 3, size, size, device="meta")).shape == (1, 1000)
        assert [size for size, _ in twins.images] == ([224, 64] if "alexnet" in twins.name else [224, 32])


def test_googlenet_without_local_response_norm_is_otherwise_the_same():
    nets = list(models.with_and_without_norm(32).values())
    counts = [sum(isinstance(layer, LocalResponseNorm) for layer in net.modules()) for net in nets]
    assert counts == [2, 0]
    assert [len(list(net.parameters())) for net in nets] == [len(list(nets[0].parameters()))] * 2


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_both_layers_run_forward_and_backward(pair):
    assert type(pair.ours()).__module__ in ("bench.models.kernels", "bench.models.winograd")
    assert type(pair.theirs()).__module__.startswith("torch.nn")
    small = pair._replace(shape=(16, *pair.shape[1:]))  # as few as still take fewer multiplications
    if isinstance(layer := pair.ours(), Conv2d):
        assert layer._is_faster(torch.empty(small.shape))
    for name in pair.dtypes:
        steps = calls(small, getattr(torch, name), CPU)
        assert {contestant: step() for contestant, step in steps.items()} == {"ours": 16, "PyTorch": 16}


def test_the_convolutions_that_are_timed_are_those_that_take_fewer_multiplications():
    timed = [pair for pair in PAIRS if isinstance(pair.ours(), Conv2d)]
    assert len(timed) == 3
    for pair in timed:
        layer = pair.ours()
        assert layer._is_faster(torch.empty(pair.shape))
        assert layer.weight.shape == pair.theirs().weight.shape


def test_ratios_are_medians_over_rounds_of_pairs():
    assert models.ratios([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == [1.5, 2.0, 2.5]


def test_the_command_writes_what_it_measured(call, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "ROUNDS", 2)
    monkeypatch.setattr(models, "TWINS", (TWINS["googlenet"]._replace(images=((32, 2),)),))
    monkeypatch.setattr(models, "GOOGLENET_IMAGES", ((32, 2),))
    monkeypatch.setattr(models, "PAIRS", tuple(pair._replace(shape=(2, *pair.shape[1:])) for pair in PAIRS[:2]))
    code, out, err = call(main, "models", "trainer.accelerator=cpu", f"paths.results={tmp_path}")
    assert (code, err) == (0, "")
    assert "│ googlenet │ 2 of 32×32 │" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("written"))
    measured = json.loads((tmp_path / "speed/models.json").read_text())["results"]["images_per_s"]
    assert [row["network"] for row in measured] == [
        "googlenet", "LRN, float32", "LRN, bfloat16", "dropout, float32", "dropout, bfloat16", "as published",
    ]  # fmt: skip
    assert [len(rates) for row in measured for rates in row.values() if isinstance(rates, list)] == [2] * 12
    table = (tmp_path / "speed/models.md").read_text()
    for title in ("Forward and backward", "Layers, forward and backward", "with and without LRN"):
        assert title in table
