"""The side of every stage's feature maps against the papers."""

import pytest
import torch
from networks import of_type, on_meta
from torch import nn

from bench.models.alexnet import AlexNet
from bench.models.googlenet import INCEPTION, GoogLeNet
from bench.models.inception_v2 import InceptionV2
from bench.models.nin import NiN
from bench.models.vgg import VGG
from bench.models.zfnet import ZFNet


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
