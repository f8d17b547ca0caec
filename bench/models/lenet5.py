"""LeNet-5 as published in 1998."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.kernels import trains_on_cpu
from bench.models.layers import Output
from bench.models.lenet import PAPER_SIZE, side_of_s4
from bench.rules import check_argument, choice

# table I of the paper: the maps of S2 that each of the 16 maps of C3 sees
C3_SEES: tuple[tuple[int, ...], ...] = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

F6 = 84  # 7×12, the size of a character's bitmap

# the digits 0 … 9 as 7×12 bitmaps, drawn in the manner of figure 3
BITMAPS = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
.#####. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. .#####.
##...## .####.. ##...## ##...## ...###. ##..... .##.... .....## ##...## ##...##
##...## ...##.. .....## .....## ..####. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..####. .##.##. ######. ######. ...##.. .#####. ##...##
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... ##...## ....##. ##...## ##...## .##.... ##...## ....##.
.#####. .###### ####### .#####. ....##. .#####. .#####. .##.... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""


class ScaledTanh(nn.Module):
    """1.7159 tanh(2/3 x), appendix A: maps ±1 to ±1, where its second derivative is largest."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """The sum of 2×2 pixels times a trainable coefficient plus a trainable bias, one of each per map; section II.B.

    (N, channels, H, W) → (N, channels, H/2, W/2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        summed = F.avg_pool2d(x, 2, divisor_override=1)
        weight, bias = (p.to(x.dtype)[:, None, None] for p in (self.weight, self.bias))  # keeps bf16 bf16
        return torch.addcmul(bias, summed, weight)


class PartialConv(nn.Module):
    """5×5 convolution in which output map i sees only the input maps ``sees[i]``.

    (N, C, H, W) → (N, len(sees), H - 4, W - 4). A grouped convolution for each number of inputs: it only has the
    weights of the paper's connections. When training on a CPU it is one convolution whose other weights are zero, as
    the gradient of grouped ones takes several times longer there than all the rest of the network.
    """

    places: Tensor

    def __init__(self, sees: tuple[tuple[int, ...], ...]):
        super().__init__()
        self.convs = nn.ModuleList()
        for i, (inputs, rows) in enumerate(itertools.groupby(sees, key=len)):
            maps = list(rows)
            self.convs.append(nn.Conv2d(len(maps) * inputs, len(maps), 5, groups=len(maps)))
            self.register_buffer(f"sees{i}", torch.tensor(maps).flatten(), persistent=False)
        self.maps = len(sees), 1 + max(itertools.chain(*sees))  # of the output and the input
        pairs = [i * self.maps[1] + j for i, row in enumerate(sees) for j in row]
        self.register_buffer("places", torch.tensor(pairs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if trains_on_cpu(self, x):
            connected = torch.cat([conv.get_parameter("weight").flatten(0, 1) for conv in self.convs])  # (pairs, 5, 5)
            weight = connected.new_zeros(math.prod(self.maps), 5, 5).index_copy(0, self.places, connected)
            bias = torch.cat([conv.get_parameter("bias") for conv in self.convs])
            return F.conv2d(x, weight.view(*self.maps, 5, 5), bias)
        seen = (x.index_select(1, self.get_buffer(f"sees{i}")) for i in range(len(self.convs)))
        return torch.cat([conv(maps) for conv, maps in zip(self.convs, seen, strict=True)], dim=1)


class RadialBasis(nn.Module):
    """Minus the squared Euclidean distances to fixed codes of ±1, equation 7: (N, 84) → (N, num_classes).

    Cross entropy of these logits is the paper's discriminative criterion, equation 9, without its constant j.
    ``codes``: (num_classes, 84).
    """

    codes: Tensor

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("codes", codes(num_classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # in 32 bits: distances are in the hundreds, where bf16 has steps of 1
        return -(x.float()[:, None] - self.codes).square().sum(dim=2)


def codes(num_classes: int) -> Tensor:
    """Target codes of ±1, (num_classes, 84): the digits' bitmaps first, then random ones, always the same."""
    rows = [line.split(" ") for line in BITMAPS.split("\n") if line]
    drawn = torch.tensor([[pixel == "#" for row in rows for pixel in row[digit]] for digit in range(len(rows[0]))])
    more = torch.rand(max(0, num_classes - len(drawn)), F6, generator=torch.Generator().manual_seed(0)) < 0.5
    return torch.cat([drawn, more])[:num_classes].float() * 2 - 1


class LeNet5(nn.Module):
    """LeNet-5: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11),
    1998, section II.B, figure 2, table I: C1 6@5×5, S2, C3 16@5×5 with partial connections, S4, C5 120, F6 84;
    trainable subsampling; scaled tanh after every layer up to F6; radial basis functions with fixed codes as output.
    60,000 parameters and 340,908 connections at 1×32×32 and 10 classes. Initialisation: U(-2.4/F, 2.4/F), F the inputs
    of a unit (appendix A).

    One geometry for all sizes. Images larger than 32×32 widen the input of C5, which is implemented as a linear layer.

    Deviations: the codes are drawn in the style of figure 3, not traced from it; classes beyond the ten digits have
    random codes (the alternative mentioned in the paper); ``output=linear`` has a trained linear layer instead. Inputs
    have zero mean and unit variance, the purpose of the paper's range from -0.1 to 1.175.

    Raises:
        ValueError: ``image_size`` is below 20, or ``output`` is not an allowed value.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = PAPER_SIZE,
        output: Literal["rbf", "linear"] = "rbf",
    ):
        super().__init__()
        check_argument("output", output, choice("rbf", "linear"))
        side = side_of_s4(image_size)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5), ScaledTanh(),  # C1
            Subsampling(6), ScaledTanh(),  # S2
            PartialConv(C3_SEES), ScaledTanh(),  # C3
            Subsampling(16), ScaledTanh(),  # S4
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(16 * side * side, 120), ScaledTanh(),  # C5
            nn.Linear(120, F6), ScaledTanh(),
            RadialBasis(num_classes) if output == "rbf" else nn.Linear(F6, num_classes),
        )  # fmt: skip
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | Subsampling):
                fan_in = 4 if isinstance(layer, Subsampling) else layer.weight[0].numel()
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))
