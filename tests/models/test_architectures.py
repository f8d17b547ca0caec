"""Every network's feature maps against its paper, and every model config on images of several sizes."""

import copy
from functools import cache

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.nn import functional as F

from bench import costs
from bench.config import CONF
from bench.models import Output
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet, Inception
from bench.models.inception_v2 import InceptionV2
from bench.models.lenet import LeNet
from bench.models.lenet5 import LeNet5
from bench.models.nin import NiN
from bench.models.vgg import VGG
from bench.models.zfnet import ZFNet

CONFIGS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
INCEPTION = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


def on_meta(target, **arguments) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return target(**arguments).eval()


@cache
def composed_once(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"model={name}", "data=cifar10"])


def configured(name: str, image_size: int) -> nn.Module:
    """The network of a model config for 10 classes."""
    cfg = copy.deepcopy(composed_once(name))
    cfg.data.image_size = image_size
    return instantiate(cfg.model.net)


def of_type(net: nn.Module, *types: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in net.modules() if isinstance(layer, types)]


# ---- feature maps


def sides(net: nn.Module, layers: list[nn.Module], image_size: int) -> list[int]:
    """Side of each layer's (square) output, in the order of the calls."""
    seen = []
    for layer in set(layers):
        layer.register_forward_hook(lambda _, __, output: seen.append(output.shape[-2:]))
    net(torch.empty(1, 3, image_size, image_size, device="meta"))
    assert all(height == width for height, width in seen)
    return [height for height, _ in seen]


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        (227, [55, 27, 27, 13, 13, 13, 13, 6]),
        (224, [55, 27, 27, 13, 13, 13, 13, 6]),
        (32, [32, 15, 15, 7, 7, 7, 7, 3]),
    ],
)
@pytest.mark.parametrize("towers", [1, 2])
def test_alexnets_feature_maps(image_size, expected, towers):
    if towers == 1 and image_size == 227:
        expected = [56, *expected[1:]]  # torchvision pads always
    net = on_meta(AlexNet, image_size=image_size, towers=towers)
    assert sides(net, of_type(net.features, nn.Conv2d, nn.MaxPool2d), image_size) == expected


def test_alexnet_pads_nothing_at_227_pixels():
    assert on_meta(AlexNet, image_size=227).features[0].padding == (0, 0)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [(224, [110, 55, 26, 13, 13, 13, 13, 6]), (32, [32, 16, 16, 8, 8, 8, 8, 4])],
)
def test_zfnets_feature_maps(image_size, expected):
    net = on_meta(ZFNet, image_size=image_size)
    assert sides(net, of_type(net.features, nn.Conv2d, nn.MaxPool2d), image_size) == expected


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize(("image_size", "expected"), [(224, [112, 56, 28, 14, 7]), (32, [16, 8, 4, 2, 1])])
def test_vggs_feature_maps(depth, image_size, expected):
    net = on_meta(VGG, depth=depth, image_size=image_size)
    assert sides(net, of_type(net, nn.MaxPool2d), image_size) == expected


@pytest.mark.parametrize(("image_size", "expected"), [(224, [54, 27, 27, 13, 13, 6, 6]), (32, [32, 16, 16, 8, 8])])
def test_nins_feature_maps(image_size, expected):
    net = on_meta(NiN, image_size=image_size)
    wide = [layer for layer in of_type(net, nn.Conv2d) if layer.kernel_size != (1, 1)]
    assert sides(net, [*wide, *of_type(net, nn.MaxPool2d)], image_size) == expected


@pytest.mark.parametrize(
    ("image_size", "stem", "blocks"),
    [(224, [112, 56, 56, 56, 28], [28, 14, 7]), (32, [32, 16, 16, 16], [16, 8, 4])],
)
def test_googlenets_feature_maps(image_size, stem, blocks):
    net = on_meta(GoogLeNet, image_size=image_size)
    assert sides(net, of_type(net.stem, nn.Conv2d, nn.MaxPool2d), image_size) == stem
    net = on_meta(GoogLeNet, image_size=image_size)
    expected = [blocks[int(name[0]) - 3] for name in INCEPTION]
    assert sides(net, list(net.inception.values()), image_size) == expected


@pytest.mark.parametrize(
    ("image_size", "stem", "blocks"),
    [
        (224, [112, 56, 56, 56, 28], [28, 28, 14, 14, 14, 14, 14, 7, 7, 7]),
        (32, [32, 16, 16, 16], [16] * 2 + [8] * 5 + [4] * 3),
    ],
)
def test_inception_v2s_feature_maps(image_size, stem, blocks):
    net = on_meta(InceptionV2, image_size=image_size)
    assert sides(net, of_type(net.stem, nn.Conv2d, nn.MaxPool2d), image_size) == stem
    net = on_meta(InceptionV2, image_size=image_size)
    assert sides(net, list(net.inception.values()), image_size) == blocks


def test_inception_v2s_blocks_are_as_wide_as_the_papers_columns_sum_to():
    widths = [block.out_channels for block in on_meta(InceptionV2).inception.values()]
    assert widths == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


def test_inception_v2_has_no_kernel_of_5():
    kernels = {layer.kernel_size for layer in of_type(on_meta(InceptionV2), nn.Conv2d)}
    assert kernels == {(7, 7), (3, 3), (1, 1)}


def test_googlenets_heads_see_the_papers_14_pixel_maps_and_pool_them_to_4():
    net = on_meta(GoogLeNet).train()
    watched = [net.inception["4a"], net.inception["4d"], *of_type(net.aux_heads, nn.AvgPool2d)]
    assert sides(net, watched, 224) == [14, 4, 14, 4]


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
        assert [layer.p for layer in of_type(head, nn.Dropout)] == [0.7]


# ---- behaviour


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("image_size", [32, 64])
def test_every_config_runs_forward_and_backward(name, image_size):
    torch.manual_seed(0)
    net = configured(name, image_size)
    images, labels = torch.randn(2, 3, image_size, image_size), torch.tensor([1, 7])
    heads = 2 if name.startswith("googlenet") else 0

    output = net.train()(images)
    assert isinstance(output, Output)
    assert [logits.shape for logits in (output.logits, *output.aux)] == [(2, 10)] * (1 + heads)
    sum(F.cross_entropy(logits, labels) for logits in (output.logits, *output.aux)).backward()
    for which, parameter in net.named_parameters():
        assert parameter.grad is not None, which
        assert parameter.grad.isfinite().all(), which
    assert next(net.parameters()).grad.abs().sum() > 0

    with torch.no_grad():
        output = net.eval()(images)
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 10)
    assert output.aux == ()
    assert output.logits.isfinite().all()


PAPER_SIZES = {"lenet": 32, "lenet5": 32, "alexnet": 227, "alexnet_bn": 227}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_the_shapes_of_a_forward_and_backward_pass_at_its_papers_size(name):
    size = PAPER_SIZES.get(name, 224)
    net = on_meta(configured, name=name, image_size=size)
    assert net(torch.empty(2, 3, size, size, device="meta")).logits.shape == (2, 10)
    output = net.train()(torch.empty(2, 3, size, size, device="meta"))
    sum(logits.sum() for logits in (output.logits, *output.aux)).backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_finite_and_reach_the_first_layer_at_the_papers_size(name):
    torch.manual_seed(0)
    size = PAPER_SIZES.get(name, 224)
    net = configured(name, size).train()
    output = net(torch.randn(2, 3, size, size))
    labels = torch.tensor([1, 7])
    sum(F.cross_entropy(logits, labels) for logits in (output.logits, *output.aux)).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert next(net.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("target", "smallest"),
    [(LeNet, 20), (LeNet5, 20), (AlexNet, 15), (ZFNet, 8), (NiN, 5), (VGG, 32), (GoogLeNet, 20), (InceptionV2, 8)],
)
def test_the_smallest_images_and_any_size_between_the_geometries(target, smallest):
    for image_size in (smallest, smallest + 1, 48, 95, 96, 97, 160):
        net = on_meta(target, image_size=image_size, in_channels=1, num_classes=7)
        for mode in (net.train, net.eval):
            output = mode()(torch.empty(2, 1, image_size, image_size, device="meta"))
            assert all(logits.shape == (2, 7) for logits in (output.logits, *output.aux))


@pytest.mark.parametrize(("target", "image_size"), [(AlexNet, 14), (ZFNet, 7), (VGG, 31)])
def test_images_too_small_for_the_network_raise_naming_the_size(target, image_size):
    with pytest.raises(ValueError, match=f"image_size={image_size}"):
        on_meta(target, image_size=image_size)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluation_does_not_depend_on_the_rest_of_the_batch(name):
    torch.manual_seed(0)
    net = configured(name, 32).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images).logits[:1], net(images[:1]).logits, rtol=1e-4, atol=1e-5)


def test_batch_norm_stands_behind_every_convolution_and_replaces_local_response_norm():
    for target in (AlexNet, VGG, GoogLeNet):
        net = on_meta(target, batch_norm=True)
        assert len(of_type(net, nn.BatchNorm2d)) == len(of_type(net, nn.Conv2d))
        assert "LocalResponseNorm" not in str(net)
    net = on_meta(NiN, batch_norm=True)
    assert len(of_type(net, nn.BatchNorm2d)) == len(of_type(net, nn.Conv2d)) - 1  # not behind the classifier


def test_alexnets_local_response_norm_is_the_papers():
    norms = [layer for layer in on_meta(AlexNet).features if type(layer).__name__ == "LocalResponseNorm"]
    assert len(norms) == 2
    for norm in norms:  # PyTorch's α is divided by the window, the paper's 1e-4 is not
        assert (norm.size, norm.alpha / norm.size, norm.beta, norm.k) == (5, pytest.approx(1e-4), 0.75, 2.0)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("pool", ["max", "average"])
def test_lenets_activation_and_pooling(activation, pool):
    net = on_meta(LeNet, activation=activation, pool=pool)
    assert len(of_type(net, {"relu": nn.ReLU, "tanh": nn.Tanh}[activation])) == 4
    assert len(of_type(net, {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[pool])) == 2
    assert costs.parameters(net) == 61_706


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LeNet(image_size=19), "image_size=19"),
        (lambda: LeNet(activation="gelu"), "activation=gelu"),
        (lambda: LeNet(pool="min"), "pool=min"),
        (lambda: LeNet5(image_size=19), "image_size=19"),
        (lambda: LeNet5(output="softmax"), "output=softmax"),
        (lambda: AlexNet(towers=3), "towers=3"),
        (lambda: AlexNet(init="xavier"), "init=xavier"),
        (lambda: GoogLeNet(torchvision=True), "torchvision=true"),
        (lambda: GoogLeNet(torchvision=True, batch_norm=True, naive=True), "torchvision=true"),
        (lambda: VGG(depth=12), "depth=12"),
        (lambda: GoogLeNet(image_size=19), "image_size=19"),
    ],
)
def test_bad_arguments_raise_naming_the_value(make, named):
    with pytest.raises(ValueError, match=named):
        make()


# ---- variants of AlexNet and GoogLeNet


@pytest.mark.parametrize("towers", [1, 2])
def test_alexnets_published_initialisation(towers):
    torch.manual_seed(0)
    net = AlexNet(10, image_size=32, towers=towers, init="paper")
    layers = of_type(net, nn.Conv2d, nn.Linear)
    assert [layer.bias.unique().item() for layer in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert abs(layer.weight.mean().item()) < 1e-3


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
