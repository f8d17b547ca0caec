"""The bench-export command, and the files it writes."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from common import NOISE
from torch import nn

from bench import deploy, export
from bench.data.normalize import Normalize
from bench.data.pipeline import Pipeline
from bench.deploy import Deployed, batch_norms
from bench.errors import ConfigError
from bench.saved import open_run


def pixels(saved, n=5, seed=3):
    side = saved.decode_size
    draw = np.random.default_rng(seed).integers(0, 256, (n, side, side, saved.in_channels), dtype=np.uint8)
    return torch.from_numpy(draw)


def as_tensor(images, side):
    """The middle, as torchvision's CenterCrop and ToTensor give it."""
    start = (images.shape[1] - side) // 2
    return images[:, start : start + side, start : start + side].permute(0, 3, 1, 2).float() / 255


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("model=lenet", "augment/normalize=zca", "data.image_size=20", "data.decode_size=21"),
        ("model=alexnet", "augment/normalize=pixel_mean", "data.decode_size=40"),
        ("model=googlenet_bn",),
    ],
    ids=lambda settings: settings[0],
)
def test_both_files_answer_as_the_network_does(runs, noise, call, monkeypatch, settings):
    for name, smaller in {"ROUNDS": 1, "TURN_IMAGES": 2, "BATCHES": (1, 2)}.items():
        monkeypatch.setattr(export, name, smaller)
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    run = runs(*settings, base=(*NOISE, noise))
    code, out, err = call(export.main, f"checkpoint={run}")
    assert (code, err) == (0, "")
    assert out.count("written: ") == 2
    timed = [line.rsplit(maxsplit=2) for line in out.splitlines()[-5:]]
    assert [line[0] for line in timed[1:]] == ["PyTorch, as trained", "PyTorch, folded", "ONNX Runtime", "torch.export"]
    assert all(float(milliseconds) > 0 for line in timed[1:] for milliseconds in line[1:])
    saved = open_run(run)
    onnx, pt2 = (run / f"export/{saved.run_id}{suffix}" for suffix in (".onnx", ".pt2"))
    images = pixels(saved)
    wanted = saved.logits(Pipeline(saved.image_size, saved.normalize)(images, ()))
    x = as_tensor(images, Deployed(saved).side)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    assert torch.from_numpy(logits) == pytest.approx(wanted, abs=1e-4)
    (one,) = session.run(["logits"], {"images": x[:1].numpy()})  # any number of images
    assert torch.from_numpy(one) == pytest.approx(wanted[:1], abs=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(saved.classes)
    extra = {"about.json": ""}
    program = torch.export.load(pt2, extra_files=extra)
    assert program.module()(x).detach() == pytest.approx(wanted, abs=1e-4)
    assert json.loads(extra["about.json"])["run_id"] == saved.run_id
    assert not [name for name in program.state_dict if "aux" in name or "running_mean" in name]


@pytest.mark.parametrize(("model", "convolutions"), [("nin_bn", 8), ("googlenet_bn", 57), ("vgg11_bn", 8)])
def test_batch_norm_and_heads_are_gone_and_the_saved_network_stays_whole(runs, noise, model, convolutions):
    saved = open_run(runs(f"model={model}", base=(*NOISE, noise)))
    network = Deployed(saved)
    assert batch_norms(network) == 0
    assert batch_norms(saved.model) == convolutions  # with a ReLU, without those of heads
    assert not [name for name, _ in network.named_parameters() if "aux" in name]


@pytest.mark.parametrize(
    "settings",
    [("augment/normalize=pixel_mean", "data.decode_size=40"), ("augment/normalize=zca", "data.image_size=20")],
)
def test_normalisations_that_tell_places_apart_take_the_images_they_were_learnt_on(runs, settings):
    saved = open_run(runs("model=lenet", *settings))
    network = Deployed(saved)
    assert network.side == saved.decode_size
    images = pixels(saved)
    wanted = saved.logits(Pipeline(saved.image_size, saved.normalize)(images, ()))
    with torch.no_grad():
        assert network(as_tensor(images, saved.decode_size)) == pytest.approx(wanted, abs=1e-4)


def test_the_deviation_is_the_largest_difference_over_the_largest_logit(runs):
    saved = open_run(runs("model=lenet"))
    network = Deployed(saved)
    with torch.no_grad():
        assert deploy.deviation(network, saved, network.side) < 1e-5
        off = deploy.deviation(lambda x: network(x) + 0.5, saved, network.side)
        assert math.isnan(deploy.deviation(lambda x: network(x) * float("nan"), saved, network.side))
        asked = []
        deploy.deviation(lambda x: asked.append(network(x)) or asked[0], saved, network.side)
    largest = float(asked[0].abs().max())
    assert off == pytest.approx(0.5 / max(1.0, largest), rel=1e-3)


def test_a_file_that_differs_is_not_kept(runs, call, tmp_path, monkeypatch):
    file = tmp_path / "a.pt2"
    file.write_bytes(b"before")
    monkeypatch.setattr(export, "MOST", -1.0)
    code, _, err = call(export.main, f"checkpoint={runs('model=lenet')}", f"out={file}")
    assert code == 1
    assert "differs from the network by" in err
    assert file.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("out=a.tflite",), "out=a.tflite: must end in .onnx or .pt2"),
        (("out=/nowhere/a.onnx",), "out=/nowhere/a.onnx: must end in .onnx or .pt2, in a folder that exists"),
        ((), "checkpoint: must name a run's directory"),
        (("checkpoint=/nowhere",), "checkpoint=/nowhere: no such file"),
        (("crops=1",), "crops=1: no such setting"),
    ],
)
def test_mistakes_are_told_in_a_line(call, arguments, told):
    code, _, err = call(export.main, *arguments)
    assert code == 2
    assert told in err
    assert len(err.strip().splitlines()) == 1


def test_without_onnx_it_says_what_to_install(runs, call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = call(export.main, f"checkpoint={runs('model=lenet')}", f"out={tmp_path / 'a.onnx'}")
    assert code == 2
    assert "pip install 'convbench[export]'" in err
    assert not (tmp_path / "a.onnx").exists()


def test_a_normalisation_of_ones_own_is_not_exported():
    class Mine(Normalize):
        pass

    Mine.__abstractmethods__ = frozenset()  # as if it had all of a normalisation's methods
    with pytest.raises(ConfigError, match="^augment/normalize: Mine cannot be exported"):
        deploy._as_module(Mine(), 3, 32)


def test_a_network_that_decides_by_values_is_told_in_a_line():
    class Network(nn.Module):
        side = 8

        def __init__(self, decides):
            super().__init__()
            self.decides = decides

        def forward(self, images):
            return images if not self.decides or images.sum() > 0 else -images

    assert deploy.exported(Network(decides=False), 3)
    with pytest.raises(ConfigError, match=r"^checkpoint: torch\.export cannot express this network \(\w+: .+\)$"):
        deploy.exported(Network(decides=True), 3)
