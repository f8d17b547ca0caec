"""torchvision's weights in our networks: the same weights give the same outputs."""

import inspect

import pytest
import torch
import torchvision
from twins import TWINS, empty, images, torchvisions

from bench import cli
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.pretrained import copy_weights
from bench.models.vgg import VGG
from bench.models.winograd import as_pytorchs


def test_the_configured_dropout_is_torchvisions():
    theirs = inspect.signature(torchvision.models.GoogLeNet).parameters
    ours = cli.composed(["model=googlenet_torchvision"]).model.net
    assert (ours.dropout, ours.aux_dropout) == (theirs["dropout"].default, theirs["dropout_aux"].default)


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
    # batch norm over few images amplifies rounding errors, which are larger with fewer multiplications
    ours = as_pytorchs(GoogLeNet(batch_norm=True, torchvision=True, dropout=0.0, aux_dropout=0.0)).train()
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
    copy_weights(theirs, as_pytorchs(ours))
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
