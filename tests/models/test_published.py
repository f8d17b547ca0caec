"""Every network's parameters and multiply-accumulates against published numbers and the papers' layer tables."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from hydra.utils import get_class, instantiate
from layer_tables import INCEPTION, summed
from networks import OWN, on_meta
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import costs
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet, Inception
from bench.models.vgg import VGG

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "models.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDEN["published"])
def test_published_numbers(name):
    golden = GOLDEN["published"][name]
    arguments = golden["arguments"]
    net = on_meta(get_class(golden["target"]), **arguments)
    macs = costs.macs(net, arguments.get("in_channels", 3), arguments.get("image_size", 224))
    assert (costs.parameters(net), macs) == (golden["params"], golden["macs"])
    assert golden["source"]


@pytest.mark.parametrize("name", GOLDEN["published"])
def test_published_numbers_are_the_sums_of_the_papers_layer_tables(name):
    golden = GOLDEN["published"][name]
    assert summed(name) == (golden["params"], golden["macs"])


def test_every_model_config_has_golden_numbers():
    assert sorted(GOLDEN["configs"]) == OWN


@pytest.mark.parametrize("name", OWN)
def test_golden_numbers_of_every_model_config(name, composed):
    golden = GOLDEN["configs"][name]
    net = on_meta(lambda: instantiate(composed(f"model={name}", "data=cifar10").model.net))
    assert (costs.parameters(net), costs.macs(net, 3, 32)) == (golden["params"], golden["macs"])
    assert summed(name) == (golden["params"], golden["macs"])
    assert golden["source"]


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_vgg_costs_what_torchvisions_does(depth, batch_norm):
    name = f"vgg{depth}{'_bn' if batch_norm else ''}"
    theirs = on_meta(getattr(torchvision.models, name))
    with FlopCounterMode(display=False) as counter:
        theirs(torch.empty(1, 3, 224, 224, device="meta"))
    ours = on_meta(VGG, depth=depth, batch_norm=batch_norm)
    assert costs.macs(ours, 3, 224) == counter.get_total_flops() // 2
    # torchvision keeps the convolutions' biases beside batch norm, which subtracts them again
    biases = sum(layer.bias.numel() for layer in theirs.modules() if isinstance(layer, nn.Conv2d)) if batch_norm else 0
    assert costs.parameters(ours) == sum(p.numel() for p in theirs.parameters()) - biases
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert costs.parameters(ours) + biases == published["num_params"]
    assert costs.macs(ours, 3, 224) / 1e9 == pytest.approx(published["_ops"], abs=5e-4)


def test_costs_agree_with_the_literature():
    assert costs.macs(on_meta(VGG, depth=16), 3, 224) == pytest.approx(15.47e9, rel=1e-3)
    assert costs.macs(on_meta(AlexNet), 3, 227) == pytest.approx(0.72e9, rel=1e-2)
    assert 1.575e9 < costs.macs(on_meta(GoogLeNet), 3, 224) < 1.605e9


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("alexnet", lambda: AlexNet(image_size=224, towers=1)),
        ("googlenet", lambda: GoogLeNet(batch_norm=True, torchvision=True)),
    ],
)
def test_torchvisions_forms_cost_what_torchvision_says(name, net):
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    ours = on_meta(net)
    assert costs.parameters(ours) == published["num_params"]
    assert costs.macs(ours, 3, 224) / 1e9 == pytest.approx(published["_ops"], abs=5e-4)


def weights(*layers: nn.Module) -> int:
    """Weights without biases."""
    return sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim > 1)


def test_googlenets_weights_are_those_of_table_1():
    net = on_meta(GoogLeNet)
    convolutions = [layer for layer in net.stem if isinstance(layer, nn.Conv2d)]
    assert weights(*convolutions[1:]) == 114_688  # "112K"
    assert weights(net.inception["3a"]) == 163_328  # "159K"


def test_what_dimension_reduction_saves():
    """128 filters of 1×1, 192 of 3×3 and 96 of 5×5 on 32×32×256, and the same behind reductions to 64 channels."""
    naive = on_meta(lambda: Inception(256, (128, 0, 192, 0, 96, 0), naive=True))
    reduced = on_meta(lambda: Inception(256, (128, 64, 192, 64, 96, 64)))
    assert weights(naive) == 256 * 128 + 9 * 256 * 192 + 25 * 256 * 96 == 1_089_536
    assert weights(reduced) == 346_112
    assert costs.macs(naive, 256, 32) == 32 * 32 * 1_089_536
    assert costs.macs(reduced, 256, 32) == 32 * 32 * 346_112
    direct = on_meta(lambda: Inception(192, (1, 0, 1, 0, 96, 0), naive=True)).branch5
    bottleneck = on_meta(lambda: Inception(192, (1, 1, 1, 32, 96, 1))).branch5
    assert (weights(direct), weights(bottleneck)) == (460_800, 82_944)


# the table's 54 million operations of 5a belong to no widths it gives
@pytest.mark.parametrize("name", [name for name in INCEPTION if name != "5a"])
def test_googlenets_blocks_cost_what_table_1_says(name):
    side = {"3": 28, "4": 14, "5": 7}[name[0]]
    c_in, *_, millions = INCEPTION[name]
    assert abs(costs.macs(on_meta(GoogLeNet).inception[name], c_in, side) / 1e6 - millions) < 1


def test_googlenet_without_heads_is_the_same_network():
    assert costs.parameters(on_meta(GoogLeNet, aux_heads=False)) == 6_998_552
    assert sum(p.numel() for p in on_meta(GoogLeNet, aux_heads=False).parameters()) == 6_998_552
