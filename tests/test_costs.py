"""What counts as a network's cost, and what does not."""

import copy

import pytest
import torch
from torch import nn

from bench import costs
from bench.models.googlenet import GoogLeNet
from bench.models.layers import LocalResponseNorm


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
    assert [layer.training for layer in net.modules()] == modes
    assert {p.device.type for p in net.parameters()} == {"cpu"}
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


def test_counting_needs_neither_memory_nor_arithmetic():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 100_000, 11, padding=5), nn.Conv2d(100_000, 100_000, 3, padding=1))
    assert costs.macs(net, 3, 1000) == 10**6 * (100_000 * 363 + 10**10 * 9)


def test_macs_grow_with_the_image():
    net = nn.Conv2d(1, 1, 1)
    assert [costs.macs(net, 1, side) for side in (1, 2, 10)] == [1, 4, 100]
