"""What counts as a network's cost, and what does not."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import costs
from bench.costs import Layer
from bench.explain import options
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.kernels import LocalResponseNorm
from bench.models.layers import AUX_HEADS, GlobalAveragePool
from bench.models.vgg import VGG


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 10×10
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, groups=4),  # 4×4
        nn.BatchNorm2d(12),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 4, 5, bias=False),
    )


MACS = 10 * 10 * 8 * 3 * 9 + 4 * 4 * 12 * 2 * 9 + 48 * 5
PARAMETERS = (8 * 3 * 9 + 8) + (12 * 2 * 9 + 12) + 2 * 12 + 48 * 5


def test_macs_and_parameters_of_a_small_net_are_those_of_the_arithmetic():
    assert costs.macs(small_net(), 3, 10) == MACS
    assert costs.parameters(small_net()) == PARAMETERS


def test_auxiliary_heads_do_not_count():
    class WithHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Linear(3, 4)
            self.aux_heads = nn.ModuleDict({"a": nn.Linear(100, 100)})
            self.aux_heads_no_more = nn.Linear(2, 2)

    assert costs.parameters(WithHeads()) == (3 * 4 + 4) + (2 * 2 + 2)
    with torch.device("meta"):
        net = GoogLeNet(num_classes=10, image_size=32)
    heads = sum(p.numel() for p in net.aux_heads.parameters())
    assert heads > 1_000_000
    assert costs.parameters(net) == sum(p.numel() for p in net.parameters()) - heads


def test_local_response_norm_does_not_count():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = LocalResponseNorm(8)
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.norm(self.conv(self.norm(x)))

    net = nn.Sequential(nn.Conv2d(3, 8, 3), LocalResponseNorm(8), Block())
    assert costs.macs(net, 3, 10) == 8 * 8 * (8 * 3 * 9 + 8 * 8)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is(training):
    net = small_net().train(training)
    net[3].eval()  # a frozen layer stays frozen
    modes = [layer.training for layer in net.modules()]
    state = copy.deepcopy(net.state_dict())
    costs.macs(net, 3, 10)
    costs.layers(net, 3, 10)
    assert [layer.training for layer in net.modules()] == modes
    assert {p.device.type for p in net.parameters()} == {"cpu"}
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


def test_counting_needs_neither_memory_nor_arithmetic():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 100_000, 11, padding=5), nn.Conv2d(100_000, 100_000, 3, padding=1))
    assert costs.macs(net, 3, 1000) == 10**6 * (100_000 * 363 + 10**10 * 9)


def test_a_network_that_reads_values_is_counted_all_the_same():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 5)

        def forward(self, x):
            return self.fc(x.flatten(1)) if x.max() < 1 else x

    assert costs.macs(Reads(), in_channels=3, image_size=2) == 60


def test_macs_grow_with_the_image():
    net = nn.Conv2d(1, 1, 1)
    assert [costs.macs(net, 1, side) for side in (1, 2, 10)] == [1, 4, 100]


# ---- layer by layer


def sums(layers: list[Layer]) -> tuple[int, int]:
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers)


def test_a_small_net_has_a_row_for_each_layer_that_counts_or_resizes():
    layers = costs.layers(small_net(), 3, 10)
    assert layers == [
        Layer("0", "conv", (3, 3), (1, 1), (8, 10, 10), 8 * 3 * 9 + 8, 10 * 10 * 8 * 3 * 9),
        Layer("2", "conv", (3, 3), (2, 2), (12, 4, 4), 12 * 2 * 9 + 12, 4 * 4 * 12 * 2 * 9),
        Layer("3", "batch norm", (), (), (12, 4, 4), 24, 0),
        Layer("4", "max pool", (2, 2), (2, 2), (12, 2, 2), 0, 0),
        Layer("6", "linear", (), (), (5,), 48 * 5, 48 * 5),
    ]
    assert sums(layers) == (PARAMETERS, MACS)


def test_a_layer_called_twice_has_a_row_a_call_and_its_parameters_once():
    shared = nn.Conv2d(3, 3, 2)
    layers = costs.layers(nn.Sequential(shared, nn.Tanh(), shared), 3, 5)
    assert layers == [
        Layer("0", "conv", (2, 2), (1, 1), (3, 4, 4), 39, 16 * 36),
        Layer("0", "conv", (2, 2), (1, 1), (3, 3, 3), 0, 9 * 36),
    ]


def test_local_response_norm_has_a_row_with_its_window_and_no_macs():
    for norm in (LocalResponseNorm(4, size=3), nn.LocalResponseNorm(3)):
        layers = costs.layers(nn.Sequential(nn.Conv2d(1, 4, 1), norm), 1, 6)
        assert layers[1:] == [Layer("1", "LRN", (3,), (), (4, 6, 6), 0, 0)]


def test_nothing_is_lost_that_is_not_in_a_layer_of_its_own():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.first, self.tied = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.tied.weight = self.first.weight
            self.attention = nn.MultiheadAttention(3, 1)
            self.idle = nn.Linear(7, 2)
            self.aux_heads = nn.ModuleDict({"a": nn.Linear(100, 100)})

        def forward(self, x):
            x = self.tied(self.first(x * self.scale)).flatten(2).transpose(1, 2)
            return self.attention(x, x, x)[0] @ x.transpose(1, 2)

    net = Odd()
    layers = {layer.name: layer for layer in costs.layers(net, 3, 4)}
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net.eval()(torch.zeros(1, 3, 4, 4))
    assert sums(list(layers.values())) == (costs.parameters(net), counter.get_total_flops() // 2)
    assert (layers["first"].params, layers["tied"].params) == (3 * 3 + 3, 3)
    assert layers["attention"].macs > 0
    assert layers["Odd"] == Layer("Odd", "Odd", (), (), (16, 16), 3, 16 * 16 * 3)
    assert layers["idle"] == Layer("idle", "linear", (), (), (), 7 * 2 + 2, 0)
    assert not any(name.startswith(AUX_HEADS) for name in layers)


def test_sides_may_differ_and_channels_come_first():
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    net = nn.Sequential(nn.Conv2d(1, 2, (1, 7), stride=(2, 1)), Last(), nn.Linear(2, 6), Last(), GlobalAveragePool())
    layers = costs.layers(net, 1, 8)
    assert layers[0][2:5] == ((1, 7), (2, 1), (2, 4, 2))
    assert layers[1][2:5] == ((), (), (6, 4, 2))
    assert layers[2][1:5] == ("average pool", (), (), (2,))


def test_googlenets_layers_are_those_of_the_papers_table():
    with torch.device("meta"):
        layers = costs.layers(GoogLeNet(num_classes=1000, image_size=224), 3, 224)
    assert sums(layers) == (6_998_552, 1_582_671_872)
    stem = [(layer.kind, layer.kernel, layer.stride, layer.output) for layer in layers[:7]]
    assert stem == [
        ("conv", (7, 7), (2, 2), (64, 112, 112)),
        ("max pool", (3, 3), (2, 2), (64, 56, 56)),
        ("LRN", (5,), (), (64, 56, 56)),
        ("conv", (1, 1), (1, 1), (64, 56, 56)),
        ("conv", (3, 3), (1, 1), (192, 56, 56)),
        ("LRN", (5,), (), (192, 56, 56)),
        ("max pool", (3, 3), (2, 2), (192, 28, 28)),
    ]
    pools = [layer.output for layer in layers if layer.kind in ("max pool", "average pool") and layer.stride != (1, 1)]
    assert pools == [(64, 56, 56), (192, 28, 28), (480, 14, 14), (832, 7, 7), (1024,)]
    assert layers[-1].output == (1000,)
    blocks = [layer for layer in layers if layer.name.startswith("inception.")]
    assert len(blocks) == 9 * 7
    blocks = [layer for layer in blocks if layer.kind == "conv"]
    into = {block: [row.output for row in blocks if f".{block}." in row.name] for block in ("3a", "3b", "4e", "5b")}
    leaving = {block: sum(rows[i][0] for i in (0, 2, 4, 5)) for block, rows in into.items()}
    assert leaving == {"3a": 256, "3b": 480, "4e": 832, "5b": 1024}
    assert {block: rows[0][1:] for block, rows in into.items()} == {
        "3a": (28, 28), "3b": (28, 28), "4e": (14, 14), "5b": (7, 7),
    }  # fmt: skip


def test_alexnets_and_vggs_layers_are_those_of_the_papers():
    with torch.device("meta"):
        alexnet, vgg = AlexNet(image_size=224), VGG(depth=16, image_size=224)
    layers = costs.layers(alexnet, 3, 224)
    assert [layer.output for layer in layers if layer.kind == "conv"] == [
        (96, 55, 55), (256, 27, 27), (384, 13, 13), (384, 13, 13), (256, 13, 13),
    ]  # fmt: skip
    assert [layer.output for layer in layers if layer.kind == "linear"] == [(4096,), (4096,), (1000,)]
    assert [layer.output[1:] for layer in layers if layer.kind == "max pool"] == [(27, 27), (13, 13), (6, 6)]
    assert sums(layers)[0] == 60_965_224
    layers = costs.layers(vgg, 3, 224)
    assert [layer.kind for layer in layers if layer.macs] == ["conv"] * 13 + ["linear"] * 3
    assert sums(layers) == (138_357_544, 15_470_264_320)


def flops_of_norms(net, counter):
    """What PyTorch counts for the window sums of local response normalisation, which here are convolutions."""
    counts = counter.get_flop_counts()
    for name, layer in net.named_modules():
        if isinstance(layer, LocalResponseNorm):
            yield sum(counts.get(f"{type(net).__name__}.{name}", {}).values())


@pytest.mark.parametrize("name", options("model"))
def test_the_layers_of_every_config_sum_to_its_costs(name, composed):
    size = 32
    if name.startswith("timm/"):
        pytest.importorskip("timm")
        size = 128  # some have no small form
    cfg = composed(f"model={name}", "data=cifar10", f"data.image_size={size}")
    with torch.device("meta"):
        net = instantiate(cfg.model.net)
    layers = costs.layers(net, 3, size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        net.eval()(torch.empty(1, 3, size, size, device="meta"))
    norms = sum(flops_of_norms(net, counter))
    assert sums(layers) == (costs.parameters(net), (counter.get_total_flops() - norms) // 2)
    assert costs.macs(net, 3, size) == sums(layers)[1]
    assert all(layer.output for layer in layers)  # all are run in evaluation
