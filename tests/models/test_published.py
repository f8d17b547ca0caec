"""Every network's parameters and multiply-accumulates against published numbers and the papers' layer tables."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from hydra.utils import get_class, instantiate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench import costs
from bench.config import CONF
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet, Inception
from bench.models.vgg import VGG

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "models.json").read_text(encoding="utf-8"))
CONFIGS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def on_meta(target, **arguments) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return target(**arguments).eval()


# ---- layer tables, written down from the papers: one row a layer, (side of its output, c_in, c_out, kernel, groups)


def fc(c_in: int, c_out: int) -> tuple[int, int, int, int, int]:
    return 1, c_in, c_out, 1, 1


def lenet_table(in_channels: int):
    return [(28, in_channels, 6, 5, 1), (10, 6, 16, 5, 1)], [fc(400, 120), fc(120, 84), fc(84, 10)]


def subsampling(channels: int) -> tuple[int, int, int, int, int]:
    return 0, 1, channels, 1, 1  # a coefficient and a bias a map, no convolution


def lenet5_table(in_channels: int):
    # C3's maps see 3, 4 or 6 of S2's; the radial basis functions have nothing to train
    partial = [(10, 6 * 3, 6, 5, 6), (10, 9 * 4, 9, 5, 9), (10, 6, 1, 5, 1)]
    rest = [subsampling(6), subsampling(16), fc(400, 120), fc(120, 84)]
    return [(28, in_channels, 6, 5, 1), *partial], rest


def alexnet_table(paper: bool, towers: int = 2):
    one, two, three = (55, 27, 13) if paper else (32, 15, 7)
    # in one tower: the printed layers of torchvision's alexnet
    c1, c2, c3, c4, c5 = (96, 256, 384, 384, 256) if towers == 2 else (64, 192, 384, 256, 256)
    convolutions = [
        (one, 3, c1, 11 if paper else 5, 1),
        (two, c1, c2, 5, towers),
        (three, c2, c3, 3, 1),
        (three, c3, c4, 3, towers),
        (three, c4, c5, 3, towers),
    ]
    head = [(9216, 4096), (4096, 4096), (4096, 1000)] if paper else [(2304, 1024), (1024, 1024), (1024, 10)]
    return convolutions, [fc(*layer) for layer in head]


def zfnet_table(paper: bool):
    one, two, three = (110, 26, 13) if paper else (32, 16, 8)
    convolutions = [
        (one, 3, 96, 7 if paper else 3, 1),
        (two, 96, 256, 5, 1),
        (three, 256, 384, 3, 1),
        (three, 384, 384, 3, 1),
        (three, 384, 256, 3, 1),
    ]
    head = [(9216, 4096), (4096, 4096), (4096, 1000)] if paper else [(4096, 1024), (1024, 1024), (1024, 10)]
    return convolutions, [fc(*layer) for layer in head]


def nin_table(paper: bool):
    # side, kernel, c_in, then the three convolutions' channels
    blocks = (
        [
            (54, 11, 3, 96, 96, 96),
            (27, 5, 96, 256, 256, 256),
            (13, 3, 256, 384, 384, 384),
            (6, 3, 384, 1024, 1024, 1000),
        ]
        if paper
        else [(32, 5, 3, 192, 160, 96), (16, 5, 96, 192, 192, 192), (8, 3, 192, 192, 192, 10)]
    )
    rows = []
    for side, kernel, c_in, width, mlp1, mlp2 in blocks:
        rows += [(side, c_in, width, kernel, 1), (side, width, mlp1, 1, 1), (side, mlp1, mlp2, 1, 1)]
    return rows[:-1], rows[-1:]


def vgg_table(depth: int, paper: bool):
    repeats = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    rows, c = [], 3
    for block, (repeat, width) in enumerate(zip(repeats, (64, 128, 256, 512, 512), strict=True)):
        for _ in range(repeat):
            rows.append(((224 if paper else 32) >> block, c, width, 3, 1))
            c = width
    head = [(25088, 4096), (4096, 4096), (4096, 1000)] if paper else [(512, 512), (512, 512), (512, 10)]
    return rows, [fc(*layer) for layer in head]


# table 1 of the GoogLeNet paper: input channels, #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj, ops in millions
INCEPTION = {
    "3a": (192, 64, 96, 128, 16, 32, 32, 128),
    "3b": (256, 128, 128, 192, 32, 96, 64, 304),
    "4a": (480, 192, 96, 208, 16, 48, 64, 73),
    "4b": (512, 160, 112, 224, 24, 64, 64, 88),
    "4c": (512, 128, 128, 256, 24, 64, 64, 100),
    "4d": (512, 112, 144, 288, 32, 64, 64, 119),
    "4e": (528, 256, 160, 320, 32, 128, 128, 170),
    "5a": (832, 256, 160, 320, 32, 128, 128, 54),
    "5b": (832, 384, 192, 384, 48, 128, 128, 71),
}


def inception_rows(name: str, side: int, kernel5: int):
    c_in, c1, r3, c3, r5, c5, proj, _ = INCEPTION[name]
    pointwise = [(side, c_in, c_out, 1, 1) for c_out in (c1, r3, r5, proj)]
    return [*pointwise, (side, r3, c3, 3, 1), (side, r5, c5, kernel5, 1)]


def stem_rows(paper: bool):
    stem, second = (112, 56) if paper else (32, 16)
    return [(stem, 3, 64, 7 if paper else 3, 1), (second, 64, 64, 1, 1), (second, 64, 192, 3, 1)]


def googlenet_table(paper: bool, kernel5: int = 5):
    sides = (28, 14, 7) if paper else (16, 8, 4)
    rows = stem_rows(paper)
    for name in INCEPTION:
        rows += inception_rows(name, sides[int(name[0]) - 3], kernel5)
    return rows, [fc(1024, 1000 if paper else 10)]


# figure 5 of the batch norm paper: input channels, then channels by column; blocks without 1×1 have stride 2
INCEPTION_V2 = {
    "3a": (192, 64, 64, 64, 64, 96, 32),
    "3b": (256, 64, 64, 96, 64, 96, 64),
    "3c": (320, 0, 128, 160, 64, 96, 0),
    "4a": (576, 224, 64, 96, 96, 128, 128),
    "4b": (576, 192, 96, 128, 96, 128, 128),
    "4c": (576, 160, 128, 160, 128, 160, 128),
    "4d": (608, 96, 128, 192, 160, 192, 128),
    "4e": (608, 0, 128, 192, 192, 256, 0),
    "5a": (1056, 352, 192, 320, 160, 224, 128),
    "5b": (1024, 352, 192, 320, 192, 224, 128),
}


def inception_v2_table(paper: bool):
    sides = (28, 14, 7) if paper else (16, 8, 4)
    rows = stem_rows(paper)
    for name, (c_in, c1, r3, c3, r33, c33, proj) in INCEPTION_V2.items():
        side = sides[int(name[0]) - 3]
        last = side if c1 else (side + 1) // 2
        rows += [(side, c_in, c_out, 1, 1) for c_out in (c1, r3, r33, proj) if c_out]
        rows += [(last, r3, c3, 3, 1), (side, r33, c33, 3, 1), (last, c33, c33, 3, 1)]
    return rows, [fc(1024, 1000 if paper else 10)]


TABLES = {
    "lenet at 32": lenet_table(1),
    "lenet5 at 32": lenet5_table(1),
    "alexnet at 224": alexnet_table(True),
    "alexnet at 227": alexnet_table(True),
    "alexnet_torchvision at 224": alexnet_table(True, towers=1),
    "zfnet at 224": zfnet_table(True),
    "nin at 32": nin_table(False),
    "nin at 224": nin_table(True),
    "googlenet at 224": googlenet_table(True),
    "googlenet_torchvision at 224": googlenet_table(True, kernel5=3),
    "inception_v2 at 224": inception_v2_table(True),
    **{f"vgg{depth}{bn} at 224": vgg_table(depth, True) for depth in (11, 13, 16, 19) for bn in ("", "_bn")},
    "lenet": lenet_table(3),
    "lenet5": lenet5_table(3),
    "alexnet": alexnet_table(False),
    "alexnet_torchvision": alexnet_table(False, towers=1),
    "zfnet": zfnet_table(False),
    "nin": nin_table(False),
    "googlenet": googlenet_table(False),
    "googlenet_torchvision": googlenet_table(False, kernel5=3),
    "inception_v2": inception_v2_table(False),
    **{f"vgg{depth}": vgg_table(depth, False) for depth in (11, 13, 16, 19)},
}


ALWAYS_BATCH_NORM = ("googlenet_torchvision", "inception_v2")


def summed(name: str) -> tuple[int, int]:
    """Parameters and multiply-accumulates of a table; with batch norm, convolutions have its two instead of a bias."""
    convolutions, rest = TABLES[name] if name in TABLES else TABLES[name.removesuffix("_bn")]
    weights = [k * k * c_in // groups * c_out for _, c_in, c_out, k, groups in convolutions + rest]
    macs = sum(side * side * n for (side, *_), n in zip(convolutions + rest, weights, strict=True))
    a_channel = 2 if "_bn" in name or name.split(" ")[0] in ALWAYS_BATCH_NORM else 1
    extra = a_channel * sum(row[2] for row in convolutions) + sum(row[2] for row in rest)
    return sum(weights) + extra, macs


# ---- size and cost


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
    assert sorted(GOLDEN["configs"]) == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
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
