"""torchvision's weights in our networks: the same weights give the same outputs; what stays and what is frozen."""

import inspect
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from common import SHORT
from torch import nn

from bench import cli, train
from bench.assemble import make_data, make_model, prepare_machine
from bench.config import check
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.pretrained import copy_weights, freeze_backbone, imagenet_statistics, load_imagenet
from bench.models.vgg import VGG
from bench.store import Store

TWINS = {
    "alexnet": lambda **kw: AlexNet(image_size=224, towers=1, **kw),
    **{f"vgg{depth}": lambda depth=depth, **kw: VGG(depth, **kw) for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": lambda depth=depth, **kw: VGG(depth, batch_norm=True, **kw) for depth in (11, 13, 16, 19)},
    "googlenet": lambda **kw: GoogLeNet(batch_norm=True, torchvision=True, **kw),
}


def randomly(make) -> nn.Module:
    """A network with random weights that tell layers apart, statistics of batch norm among them.

    Not initialised before, which takes a network of 140 million parameters seconds.
    """
    with torch.device("meta"):
        net = make()
    net = net.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim > 1:
                value.uniform_(-1, 1).mul_((6 / value[0].numel()) ** 0.5)  # Kaiming
            elif value.is_floating_point():
                value.uniform_(-0.2, 0.2).add_(1 if name.endswith("weight") else 0)
    return net


def test_the_configured_dropout_is_torchvisions():
    theirs = inspect.signature(torchvision.models.GoogLeNet).parameters
    ours = cli.composed(["model=googlenet_torchvision"]).model.net
    assert (ours.dropout, ours.aux_dropout) == (theirs["dropout"].default, theirs["dropout_aux"].default)


def torchvisions(name: str, **arguments) -> nn.Module:
    """torchvision's network with random weights."""
    if name == "googlenet":
        arguments["init_weights"] = False
    return randomly(lambda: torchvision.models.get_model(name, **arguments))


def empty(name: str) -> nn.Module:
    """Our network with weights of zero."""
    with torch.device("meta"):
        net = TWINS[name]()
    net = net.to_empty(device="cpu")
    for value in net.state_dict().values():
        value.zero_()
    return net


def images(n: int, size: int) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TWINS)
def test_the_same_weights_give_the_same_outputs_in_evaluation(name):
    theirs, ours = torchvisions(name).eval(), empty(name).eval()
    copy_weights(theirs, ours)
    with torch.no_grad():
        expected, actual = theirs(images(1, 224)), ours(images(1, 224)).logits
    scale = expected.abs().max()
    assert expected.std() > 0.01 * scale
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "googlenet"])
@pytest.mark.parametrize("size", [96, 160])
def test_the_same_weights_give_the_same_outputs_at_other_sizes(name, size):
    theirs, ours = torchvisions(name).eval(), empty(name).eval()
    copy_weights(theirs, ours)
    with torch.no_grad():
        expected, actual = theirs(images(2, size)), ours(images(2, size)).logits
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_googlenet_and_its_heads_are_torchvisions_in_training_too():
    theirs = torchvisions("googlenet", dropout=0.0, dropout_aux=0.0).train()
    ours = GoogLeNet(batch_norm=True, torchvision=True, dropout=0.0, aux_dropout=0.0).train()
    copy_weights(theirs, ours)
    x = images(4, 224)
    expected, actual = theirs(x), ours(x)
    wanted = (expected.logits, expected.aux_logits1, expected.aux_logits2)
    got = (actual.logits, *actual.aux)
    assert len(actual.aux) == 2
    for one, other in zip(got, wanted, strict=True):
        scale = other.abs().max()
        torch.testing.assert_close(one / scale, other / scale, rtol=1e-5, atol=1e-5)
    sum(t.square().mean() for t in wanted).backward()
    sum(t.square().mean() for t in got).backward()
    gradient, other = ours.stem[0].weight.grad, theirs.conv1.conv.weight.grad
    assert (gradient - other).norm() < 1e-3 * other.norm()


def test_vgg_with_batch_norm_is_torchvisions_in_training_too():
    theirs, ours = torchvisions("vgg11_bn", dropout=0.0).train(), VGG(11, batch_norm=True, dropout=0.0).train()
    copy_weights(theirs, ours)
    x = images(3, 96)
    expected, actual = theirs(x), ours(x).logits
    scale = expected.abs().max()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-4, atol=1e-4)


def test_another_number_of_classes_gets_a_last_layer_of_its_own():
    theirs, ours = torchvisions("googlenet"), TWINS["googlenet"](num_classes=102)
    kept = ours.classifier[-1].weight.clone(), ours.aux_heads["4a"].classifier.weight.clone()
    copy_weights(theirs, ours)
    assert torch.equal(ours.classifier[-1].weight, kept[0])
    assert torch.equal(ours.aux_heads["4a"].classifier.weight, kept[1])
    assert torch.equal(ours.aux_heads["4a"].features[-3].weight, theirs.aux1.fc1.weight)
    assert torch.equal(ours.inception["5b"].branch1[0].weight, theirs.inception5b.branch1.conv.weight)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("vgg11", lambda: VGG(11, image_size=64)),
        ("vgg11", lambda: VGG(13)),
        ("vgg11", lambda: VGG(11, in_channels=1)),
        ("vgg11", lambda: VGG(11, batch_norm=True)),
        ("vgg11_bn", lambda: VGG(11)),
        ("alexnet", lambda: AlexNet(image_size=224)),
        ("googlenet", lambda: GoogLeNet()),
        ("googlenet", lambda: GoogLeNet(batch_norm=True)),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_changed(name, make):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    ours = make()
    before = [p.clone() for p in ours.parameters()]
    with pytest.raises(ValueError, match="pretrained weights do not fit .*96 or more pixels"):
        copy_weights(theirs, ours)
    assert all(torch.equal(p, q) for p, q in zip(before, ours.parameters(), strict=True))


# ---- through torchvision's own loading, from a file where its download would put it


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
    with pytest.raises(
        RuntimeError, match=f"^{re.escape(str(file))}: .*; delete the file to have it downloaded again$"
    ):
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


# ---- linear probing


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
def test_linear_probing_trains_the_last_layer_and_fine_tuning_all(freeze, hub, composed, tmp_path):
    theirs = hub("googlenet")
    probe = ("model.pretrained=imagenet", f"model.freeze={freeze}", "data.image_size=96", "optimizer.lr=1e-4")
    short = (*SHORT, "progress=none", "data.source.test_size=1600", "optimizer.weight_decay=0")
    cfg = composed("model=googlenet_torchvision", *probe, *short)
    record = train.run(cfg)
    assert record.status == "ok", record.error
    saved = torch.load(tmp_path / "results/runs" / record.run_id / "checkpoints/selected.ckpt", weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in saved["state_dict"].items()}
    untouched = GoogLeNet(10, image_size=96, batch_norm=True, torchvision=True, aux_heads=False)
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
