"""Every model configuration on images of several sizes, and what networks refuse."""

import copy
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from networks import BETWEEN, OWN, check_both_ways, check_shapes_both_ways, on_meta
from omegaconf import DictConfig
from torch import nn

from bench.config import CONF
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.inception_v2 import InceptionV2
from bench.models.lenet import LeNet
from bench.models.lenet5 import LeNet5
from bench.models.nin import NiN
from bench.models.vgg import VGG
from bench.models.zfnet import ZFNet


@cache
def composed_once(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"model={name}", "data=cifar10"])


def configured(name: str, image_size: int) -> nn.Module:
    """The network of a model config for 10 classes."""
    cfg = copy.deepcopy(composed_once(name))
    cfg.data.image_size = image_size
    return instantiate(cfg.model.net)


HEADS = {"googlenet": 2, "googlenet_bn": 2, "googlenet_torchvision": 2}
PAPER_SIZES = {"lenet": 32, "lenet5": 32, "alexnet": 227, "alexnet_bn": 227}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("image_size", [32, 64])
def test_every_config_runs_forward_and_backward(name, image_size):
    torch.manual_seed(0)
    check_both_ways(configured(name, image_size), image_size, HEADS.get(name, 0))


@pytest.mark.parametrize("name", OWN)
def test_every_config_has_the_shapes_of_a_forward_and_backward_pass_at_its_papers_size(name):
    size = PAPER_SIZES.get(name, 224)
    check_shapes_both_ways(on_meta(configured, name, size), size, HEADS.get(name, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OWN if name not in BETWEEN])
def test_configs_run_forward_and_backward_at_their_papers_size(name):
    torch.manual_seed(0)
    size = PAPER_SIZES.get(name, 224)
    check_both_ways(configured(name, size), size, HEADS.get(name, 0))


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
        (lambda: NiN(init="xavier"), "init=xavier"),
        (lambda: VGG(init="xavier"), "init=xavier"),
        (lambda: GoogLeNet(init="xavier"), "init=xavier"),
        (lambda: GoogLeNet(torchvision=True), "torchvision=true"),
        (lambda: GoogLeNet(torchvision=True, batch_norm=True, naive=True), "torchvision=true"),
        (lambda: VGG(depth=12), "depth=12"),
        (lambda: GoogLeNet(image_size=19), "image_size=19"),
        (lambda: AlexNet(image_size=14), "image_size=14"),
        (lambda: ZFNet(image_size=7), "image_size=7"),
        (lambda: VGG(image_size=31), "image_size=31"),
        (lambda: AlexNet(batch_norm="off"), "batch_norm=off"),
        (lambda: NiN(batch_norm=1), "batch_norm=1"),
        (lambda: VGG(batch_norm="no"), "batch_norm=no"),
        (lambda: GoogLeNet(aux_heads="no"), "aux_heads=no"),
        (lambda: GoogLeNet(naive="flase"), "naive=flase"),
        (lambda: VGG(dropout=True), "dropout=True"),
        (lambda: ZFNet(dropout=1.5), "dropout=1.5"),
        (lambda: InceptionV2(dropout="none"), "dropout=none"),
    ],
)
def test_bad_arguments_raise_naming_the_value(make, named):
    with pytest.raises(ValueError, match=named):
        make()
