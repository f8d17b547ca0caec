"""What the papers say of single networks beyond sizes and costs, and the options that networks have."""

import pytest
import torch
import torchvision
from networks import of_type, on_meta
from torch import nn
from torch.nn import functional as F

from bench import costs
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet, Inception
from bench.models.kernels import LocalResponseNorm
from bench.models.layers import GlobalAveragePool
from bench.models.lenet import LeNet
from bench.models.nin import NiN
from bench.models.vgg import VGG
from bench.models.zfnet import ZFNet


def test_vgg16_has_torchvisions_layers_in_its_order():
    def shapes(net: nn.Module) -> list[torch.Size]:
        return [p.shape for p in net.parameters()]

    assert shapes(on_meta(VGG, depth=16)) == shapes(on_meta(torchvision.models.vgg16))


def test_googlenets_heads_have_the_papers_widths():
    heads = on_meta(GoogLeNet).aux_heads
    assert list(heads) == ["4a", "4d"]
    for head, c_in in zip(heads.values(), (512, 528), strict=True):
        shapes = [tuple(p.shape) for p in head.parameters() if p.ndim > 1]
        assert shapes == [(128, c_in, 1, 1), (1024, 2048), (1000, 1024)]


def test_googlenets_heads_cost_nothing_in_evaluation():
    net = on_meta(GoogLeNet, image_size=32, num_classes=10)
    called = []
    for name, head in net.aux_heads.items():
        head.register_forward_hook(lambda *_, name=name: called.append(name))
    images = torch.empty(2, 3, 32, 32, device="meta")
    net.eval()(images)
    assert called == []
    net.train()(images)
    assert called == ["4a", "4d"]
    without = on_meta(GoogLeNet, image_size=32, num_classes=10, aux_heads=False)
    assert costs.macs(net, 3, 32) == costs.macs(without, 3, 32)


def test_batch_norm_stands_behind_every_convolution_and_replaces_local_response_norm():
    for target in (AlexNet, VGG, GoogLeNet):
        net = on_meta(target, batch_norm=True)
        assert len(of_type(net, nn.BatchNorm2d)) == len(of_type(net, nn.Conv2d))
        assert "LocalResponseNorm" not in str(net)
    net = on_meta(NiN, batch_norm=True)
    assert len(of_type(net, nn.BatchNorm2d)) == len(of_type(net, nn.Conv2d)) - 1  # not behind the classifier


KINDS = (nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d, nn.Dropout, LocalResponseNorm, GlobalAveragePool)


def in_place(net: nn.Module, kind: type[nn.Module]) -> list[tuple[str, nn.Module, str]]:
    """The network's layers of that kind, each with the kinds of the layers before and after it."""
    layers = [layer for layer in net.modules() if isinstance(layer, KINDS)]
    names = [next(one.__name__ for one in KINDS if isinstance(layer, one)) for layer in layers]
    return [
        (names[i - 1], layer, names[i + 1]) for i, layer in enumerate(layers) if isinstance(layer, kind)
    ]  # fmt: skip


@pytest.mark.parametrize("image_size", [32, 224])
@pytest.mark.parametrize(
    ("make", "places"),
    [
        (AlexNet, [("ReLU", 0.5, "Linear")] * 2),  # section 4.2: the first two fully connected layers
        (ZFNet, [("ReLU", 0.5, "Linear")] * 2),  # section 3: layers 6 and 7
        (VGG, [("ReLU", 0.5, "Linear")] * 2),  # section 3.1: the first two fully connected layers
        # section 5: 70 % in the auxiliary heads; table 1: 40 % behind the average pooling
        (GoogLeNet, [("ReLU", 0.7, "Linear")] * 2 + [("GlobalAveragePool", 0.4, "Linear")]),
    ],
)
def test_dropout_stands_where_the_paper_has_it(make, places, image_size):
    net = on_meta(make, image_size=image_size)
    assert [(before, layer.p, after) for before, layer, after in in_place(net, nn.Dropout)] == places


@pytest.mark.parametrize(("image_size", "blocks"), [(32, 3), (224, 4)])
def test_nins_dropout_stands_behind_the_pooling_of_all_but_the_last_block(image_size, blocks):
    found = in_place(on_meta(NiN, image_size=image_size), nn.Dropout)
    assert [(before, layer.p, after) for before, layer, after in found] == [("MaxPool2d", 0.5, "Conv2d")] * (blocks - 1)


@pytest.mark.parametrize("image_size", [32, 224])
@pytest.mark.parametrize(
    ("make", "where", "alpha", "k"),
    [
        (AlexNet, [("ReLU", "MaxPool2d")] * 2, 1e-4, 2.0),  # sections 3.3 and 3.5
        (ZFNet, [("MaxPool2d", "Conv2d")] * 2, 1e-4, 2.0),  # figure 3
        # figure 3; the constants are Caffe's, which divides α by the window
        (GoogLeNet, [("MaxPool2d", "Conv2d"), ("ReLU", "MaxPool2d")], 1e-4 / 5, 1.0),
    ],
)
def test_local_response_norm_stands_where_the_paper_has_it_with_its_constants(make, where, alpha, k, image_size):
    found = in_place(on_meta(make, image_size=image_size), LocalResponseNorm)
    if make is GoogLeNet and image_size == 32:
        where = [where[0], ("ReLU", "Conv2d")]  # the small form has no pooling there
    assert [(before, after) for before, _, after in found] == where
    for _, norm, _ in found:  # PyTorch's α is divided by the window
        assert (norm.size, norm.alpha / norm.size, norm.beta, norm.k) == (5, pytest.approx(alpha), 0.75, k)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("pool", ["max", "average"])
def test_lenets_activation_and_pooling(activation, pool):
    net = on_meta(LeNet, activation=activation, pool=pool)
    assert len(of_type(net, {"relu": nn.ReLU, "tanh": nn.Tanh}[activation])) == 4
    assert len(of_type(net, {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[pool])) == 2
    assert costs.parameters(net) == 61_706


@pytest.mark.parametrize("towers", [1, 2])
def test_alexnets_published_initialisation(towers):
    torch.manual_seed(0)
    net = AlexNet(10, image_size=32, towers=towers, init="paper")
    layers = of_type(net, nn.Conv2d, nn.Linear)
    assert [layer.bias.unique().item() for layer in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert abs(layer.weight.mean().item()) < 1e-3


@pytest.mark.parametrize(("make", "init", "std"), [(NiN, "caffe", 0.05), (VGG, "paper", 0.01)])
def test_published_initialisations_of_one_spread(make, init, std):
    torch.manual_seed(0)
    for layer in of_type(make(num_classes=10, image_size=32, init=init), nn.Conv2d, nn.Linear):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.1)
        assert (layer.bias == 0).all()


def test_googlenets_initialisation_is_that_of_the_caffe_model():
    torch.manual_seed(0)
    net = GoogLeNet(10, image_size=32, init="caffe")
    classifiers = [net.classifier[-1], *(head.classifier for head in net.aux_heads.values())]
    for layer in of_type(net, nn.Conv2d, nn.Linear):
        fan_in = layer.weight[0].numel()
        assert layer.weight.var().item() == pytest.approx(1 / fan_in, rel=0.15)
        assert layer.weight.abs().max().item() <= (3 / fan_in) ** 0.5
        assert layer.bias.unique().tolist() == pytest.approx([0.0 if layer in classifiers else 0.2])


def test_alexnet_in_one_tower_has_no_local_response_norm():
    assert "LocalResponseNorm" not in str(on_meta(AlexNet, towers=1))


def test_a_naive_inception_block_passes_its_input_on():
    block = Inception(16, (4, 0, 6, 0, 2, 0), naive=True).eval()
    x = torch.rand(2, 16, 5, 5)
    y = block(x)
    assert y.shape == (2, 4 + 6 + 2 + 16, 5, 5)
    assert torch.equal(y[:, 12:], F.max_pool2d(x, 3, 1, 1))


def test_googlenet_of_naive_blocks_grows_as_they_pass_their_inputs_on():
    net = on_meta(GoogLeNet, naive=True)
    widths = [block.out_channels for block in net.inception.values()]
    assert widths[:3] == [192 + 64 + 128 + 32, 416 + 128 + 192 + 96, 832 + 192 + 208 + 48]
    output = net.train()(torch.empty(2, 3, 224, 224, device="meta"))
    assert [logits.shape for logits in (output.logits, *output.aux)] == [(2, 1000)] * 3
