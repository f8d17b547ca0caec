"""Weights through torchvision's own loading, from a file as its download leaves it; what stays and what is frozen."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from common import NOISE
from torch import nn
from twins import TWINS, images, torchvisions

from bench import train
from bench.assemble import make_data, make_model, prepare_machine
from bench.config import check
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.pretrained import copy_weights, freeze_backbone, imagenet_statistics, load_imagenet
from bench.models.vgg import VGG
from bench.store import Store


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes random weights of a network of torchvision to where their download would be; returns the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def put(name: str) -> nn.Module:
        net = torchvisions(name)
        file = (
            tmp_path / "torch/hub/checkpoints" / Path(torchvision.models.get_model_weights(name).IMAGENET1K_V1.url).name
        )
        file.parent.mkdir(parents=True)
        torch.save(net.state_dict(), file)
        return net

    return put


@pytest.mark.parametrize(
    ("name", "config"), [("alexnet", "alexnet_torchvision"), ("googlenet", "googlenet_torchvision")]
)
def test_a_pretrained_configuration_has_the_weights_and_the_normalisation_they_want(name, config, hub, composed):
    theirs = hub(name)
    sizes = ("data=cifar10", "data.image_size=96", "data.num_classes=1000")
    cfg = composed(f"model={config}", *sizes, "model.pretrained=imagenet")
    ours = make_model(cfg, check(cfg)).eval()
    raw = images(2, 96).abs().clamp(max=1)
    with torch.no_grad():
        mean, std = (torch.tensor(values)[:, None, None] / 255 for values in imagenet_statistics(name))
        actual = ours((raw - mean) / std).logits
        if name == "googlenet":  # what torchvision sets with its weights
            theirs.transform_input = True
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1.transforms()
        mean, std = (torch.tensor(values)[:, None, None] for values in (weights.mean, weights.std))
        expected = theirs.eval()((raw - mean) / std)
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_images_for_pretrained_weights_are_normalised_by_imagenets_statistics(composed):
    cfg = composed("model=vgg11", "data=digits", "data.image_size=96", "model.pretrained=imagenet")
    resolved = check(cfg)
    data = make_data(cfg, resolved, prepare_machine(resolved))
    assert [data.plain.normalize, data.augmented.normalize] == [data.plain.normalize] * 2
    np.testing.assert_allclose(data.plain.normalize.mean, np.array([0.485, 0.456, 0.406]) * 255)
    np.testing.assert_allclose(data.plain.normalize.std, np.array([0.229, 0.224, 0.225]) * 255)


def test_what_does_not_fit_is_refused_before_anything_is_downloaded(monkeypatch):
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: pytest.fail("was downloaded"))
    with pytest.raises(ValueError, match="pretrained weights do not fit VGG"):
        load_imagenet(VGG(11, image_size=64), "vgg11")


@pytest.mark.parametrize("content", [b"garbage\n", b"", None])
def test_a_damaged_file_is_named(content, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: pytest.fail("was downloaded"))
    hub("googlenet")
    (file,) = (tmp_path / "torch/hub/checkpoints").iterdir()
    file.write_bytes(file.read_bytes()[:100_000] if content is None else content)
    with pytest.raises(RuntimeError, match=f"^{re.escape(str(file))}: .*; delete the file to download it again$"):
        load_imagenet(TWINS["googlenet"](), "googlenet")


def test_a_download_cut_short_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "half").write_bytes(b"half")
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: urllib.request.urlopen((tmp_path / "half").as_uri()))
    with pytest.raises(ConnectionError, match="alexnet-.*invalid hash value.*try again"):
        load_imagenet(AlexNet(image_size=224, towers=1), "alexnet")


def test_without_a_connection_the_run_fails_and_says_why(bench, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    code, _, err = bench("model=alexnet_torchvision", "model.pretrained=imagenet", "data.image_size=96")
    assert code == 1
    assert "ConnectionError: https://download.pytorch.org/models/alexnet-" in err
    assert "no route to host; try again, or put the file into" in err
    (record,) = Store(tmp_path / "results").load_all()
    assert record.status == "failed"


def test_a_download_that_fails_says_from_where_and_to_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", fail)
    with pytest.raises(
        ConnectionError, match=f"alexnet-.*no route to host.*{re.escape(str(tmp_path))}/hub/checkpoints"
    ):
        load_imagenet(AlexNet(image_size=224, towers=1), "alexnet")


@pytest.mark.parametrize(
    "make", [lambda: VGG(11, 5, image_size=32, batch_norm=True), lambda: GoogLeNet(5, image_size=32)]
)
def test_a_frozen_backbone_leaves_the_last_layer_alone_to_train(make):
    net = make()
    freeze_backbone(net)
    last = net.classifier[-1]
    assert [p for p in net.parameters() if p.requires_grad] == list(last.parameters())
    assert [layer for layer in net.modules() if layer.training] == [last]
    assert net(images(2, 32)).aux == ()


@pytest.mark.parametrize("freeze", ["backbone", "null"])
def test_linear_probing_trains_the_last_layer_and_fine_tuning_all(freeze, hub, composed, noise, tmp_path):
    theirs = hub("googlenet")
    probe = ("model.pretrained=imagenet", f"model.freeze={freeze}", "data.image_size=96", "optimizer.lr=1e-4")
    short = (*NOISE, noise, "progress=none", "optimizer.weight_decay=0")
    cfg = composed("model=googlenet_torchvision", *short, *probe)
    record = train.run(cfg)
    assert record.status == "ok", record.error
    saved = torch.load(tmp_path / "results/runs" / record.run_id / "checkpoints/selected.ckpt", weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
    untouched = GoogLeNet(2, image_size=96, batch_norm=True, torchvision=True, aux_heads=False)
    theirs.aux1 = theirs.aux2 = None
    copy_weights(theirs, untouched)
    first = untouched.state_dict()
    assert list(weights) == list(first)
    changed = [name for name, value in weights.items() if not torch.equal(value, first[name])]
    if freeze == "backbone":
        assert changed == ["classifier.2.weight", "classifier.2.bias"]
    else:
        assert len(changed) == len(first)
        far = [
            name
            for name, value in weights.items()
            if name.endswith(".0.weight")
            and value.ndim == 4
            and (value - first[name]).norm() > 0.1 * first[name].norm()
        ]
        assert far == []  # a few small steps from where it started
