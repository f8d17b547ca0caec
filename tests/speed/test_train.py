"""The comparison of training, made small: what is compared, not how fast it is."""

import contextlib
import copy
import json
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from bench.data.decode import Decoder
from bench.data.loader import Batch
from bench.errors import MeasureError
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.kernels import Dropout, LocalResponseNorm, MaxPool2x2
from bench.models.lenet import LeNet
from bench.models.nin import NiN
from bench.models.winograd import Conv2d
from bench.module import Classifier
from bench.speed import contestants, reference, synthetic, train
from bench.speed.__main__ import main
from bench.speed.contestants import Job


def test_random_images_take_the_place_of_the_data_set(tmp_path):
    job = Job(("model=nin", "data.image_size=40"), 130, 3)
    cfg, resolved = job.configured()
    assert resolved["trainer"]["max_epochs"] == 3
    assert OmegaConf.to_container(cfg.data.source) == {
        "_target_": "bench.speed.synthetic.source", "_partial_": True, "train": 130, "classes": "${data.num_classes}",
    }  # fmt: skip
    images = synthetic.source(Decoder(tmp_path, 40, 3), train=130)
    assert images.pixels.shape == (140, 40, 40, 3)
    assert (len(images.train), len(images.val), len(images.test)) == (130, 0, 10)
    assert set(images.labels[images.train]) == set(range(10))


OWN = {LocalResponseNorm: nn.LocalResponseNorm, Dropout: nn.Dropout, MaxPool2x2: nn.MaxPool2d, Conv2d: nn.Conv2d}
ARGUMENTS = ("size", "alpha", "beta", "k", "p", "kernel_size", "stride", "padding", "groups", "training")


@pytest.mark.parametrize("make", [GoogLeNet, LeNet, NiN])
def test_the_references_layers_are_pytorchs_with_the_same_arguments(make):
    net = make(10, 3, image_size=32)
    before = copy.deepcopy(net)
    after = reference.plain(net)
    replaced = [name for name, layer in before.named_modules() if type(layer) in OWN]
    assert replaced
    for name in replaced:
        own, pytorchs = before.get_submodule(name), after.get_submodule(name)
        assert type(pytorchs) is OWN[type(own)]
        for argument in ARGUMENTS:
            assert getattr(pytorchs, argument, None) == getattr(own, argument, None), (name, argument)


@pytest.mark.parametrize("make", [GoogLeNet, LeNet, NiN])
def test_the_reference_has_the_same_function(make):
    net = make(10, 3, image_size=32).eval()
    made_anew = {"bench.models.kernels", "bench.models.winograd"}
    assert made_anew & {type(layer).__module__ for layer in net.modules()}
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = net(images).logits
        after = reference.plain(net)(images).logits
    assert not made_anew & {type(layer).__module__ for layer in net.modules()}
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "macs", "first"),
    [(AlexNet(10, image_size=32), 177_453_056, 7_372_800), (LeNet(10, 3), 651_720, 352_800)],  # AlexNet has groups
)
def test_training_takes_three_times_the_operations_but_the_images_need_no_gradient(network, macs, first):
    batch = Batch(torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    counted = contestants.flops_per_image(Classifier(network, 10, None, None), batch)
    assert counted == 2 * (3 * macs - first)


def test_the_bare_loops_loss_is_that_of_training_with_its_auxiliary_heads():
    module = Classifier(GoogLeNet(10, image_size=32), 10, None, None, aux_weight=0.3)
    assert module.heads()
    batch = Batch(torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 9, 1]))
    told = []
    for loss in (lambda: module.training_step(batch, 0), lambda: contestants.losses(module, batch)):
        torch.manual_seed(0)  # dropout
        told.append(loss().item())
    assert told[0] == told[1] > 3  # a network that knows nothing yet has a loss of 2.3 in each head


def test_the_reference_is_the_one_with_the_best_number_of_workers_by_median(monkeypatch):
    rates = {
        "ours": [30.0, 90.0, 40.0],
        "bare loop": [60.0, 60.0, 40.0],
        "reference, 0": [9.0, 10.0, 90.0],  # the best mean
        "reference, 1": [20.0, 15.0, 20.0],
        "ceiling": [200.0, 200.0, 200.0],
    }
    turn = SimpleNamespace(peak_bytes=1, more={"flops": 3.0})
    monkeypatch.setattr(train, "Contestant", lambda *work: SimpleNamespace(last=turn))
    monkeypatch.setattr(train, "together", contextlib.nullcontext)
    monkeypatch.setattr(train.reference, "workers", lambda: (0, 1))
    monkeypatch.setattr(train, "interleaved", lambda asked, rounds: rates)
    value = train.compare(["model=lenet"], 256, torch.device("cpu"))
    assert value["reference"] == "reference, 1"
    assert (value["of_reference"], value["of_bare"], value["of_ceiling"]) == (2.0, 1.0, 0.6)


def test_a_dataloader_has_no_more_workers_than_there_are_cores(monkeypatch):
    for cores, most in ((1, 1), (2, 2), (6, 4), (64, 16)):
        monkeypatch.setattr(reference.machine, "hardware", lambda cores=cores: {"cores": cores})
        monkeypatch.setattr(reference.machine, "cpu_quota", lambda: None)
        assert max(reference.workers()) == most
    monkeypatch.setattr(reference.machine, "cpu_quota", lambda: 2.5)
    assert max(reference.workers()) == 2


def test_a_quotient_is_the_median_of_the_rounds():
    assert train.quotient([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


@pytest.mark.parametrize(
    ("flops", "images"), [(1e12, 1280), (0.99e12, 1280), (0.5e12, 640), (0.15e12, 256), (1e9, 256), (300e12, 51_200)]
)
def test_slow_machines_get_fewer_images_in_whole_batches(flops, images):
    assert train.scaled(1280, flops) == images


def test_no_epoch_is_too_large_for_memory():
    assert max(train.scaled(images, 300e12) for images in train.EPOCHS.values()) == train.MOST_IMAGES
    assert train.MOST_IMAGES % train.BATCH == 0


@pytest.mark.parametrize("failing", [("nin_bn",), tuple(train.EPOCHS)])
def test_a_network_that_cannot_be_measured_is_told_and_the_others_are_published(call, tmp_path, monkeypatch, failing):
    rates = {"ours": [4.0], "bare loop": [5.0], "reference, 0": [2.0], "ceiling": [9.0]}
    value = {"rates": rates, "reference": "reference, 0", "of_bare": 0.8, "of_reference": 2.0, "of_ceiling": 0.5}

    def compare(settings, images, device):
        if settings[0].removeprefix("model=") in failing:
            raise MeasureError("killed")
        return value | {"peak_bytes": {"ours": 2**20}}

    monkeypatch.setattr(train, "compare", compare)
    monkeypatch.setattr(train, "ceiling", lambda device: 1e12)
    code, _, err = call(main, "train", "trainer.accelerator=cpu", f"paths.results={tmp_path}")
    assert code == 1
    assert err.removeprefix("bench-speed: ").splitlines() == [f"{name}: killed" for name in failing]
    if len(failing) == 1:
        text = (tmp_path / "speed/train.md").read_text()
        assert "| lenet |" in text
        assert "| nin_bn |" not in text
        assert "geometric mean" not in text
        assert "\nNot measured: nin_bn: killed.\n" in text
        assert json.loads((tmp_path / "speed/train.json").read_text())["failed"] == ["nin_bn: killed"]
    else:
        assert not (tmp_path / "speed").exists()


@pytest.mark.slow
def test_all_contestants_train_in_turns_and_a_table_is_written(forked, call, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROUNDS", 2)
    monkeypatch.setattr(reference, "WORKERS", (0,))
    monkeypatch.setattr(train, "EPOCHS", {"lenet": 256})
    monkeypatch.setattr(train, "CEILING_SHAPE", (8, 32, 16, 16))  # a large one takes a core a second a call
    code, out, err = call(main, "train", "trainer.accelerator=cpu", f"paths.results={tmp_path}")
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("written"))
    lenet = json.loads((tmp_path / "speed/train.json").read_text())["results"]["lenet"]
    assert list(lenet["rates"]) == ["ours", "bare loop", "reference, 0", "ceiling"]
    assert all(len(each) == 2 and min(each) > 0 for each in lenet["rates"].values())
    ours = lenet["rates"]["ours"]
    assert lenet["of_bare"] == train.quotient(ours, lenet["rates"]["bare loop"])
    assert lenet["of_reference"] == train.quotient(ours, lenet["rates"]["reference, 0"])
    operations = [rate * lenet["flops_per_image"] for rate in ours]
    assert lenet["of_ceiling"] == train.quotient(operations, lenet["rates"]["ceiling"])
    assert lenet["flops_per_image"] == pytest.approx(3 * 2 * 651_720, rel=0.2)  # three times the forward pass's
    assert all(peak > 100 * 2**20 for peak in lenet["peak_bytes"].values())
    assert "| lenet |" in (tmp_path / "speed/train.md").read_text()
