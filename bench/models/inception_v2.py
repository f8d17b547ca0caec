"""Inception v2, also called BN-Inception."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.models.kernels import Dropout
from bench.models.layers import GlobalAveragePool, Output, conv, geometry, init_kaiming
from bench.rules import PROBABILITY, check_argument


class Row(NamedTuple):
    """A row of figure 5: channels of the convolutions (0 for a missing branch), pooling, its projection.

    ``stride`` 2 halves the maps in both convolutional branches and in the pooling, which then has no projection.
    """

    c1: int
    r3: int
    c3: int
    r33: int
    c33: int
    pool: Literal["avg", "max"]
    proj: int
    stride: int = 1


# figure 5 of the paper: #1×1, #3×3 reduce, #3×3, double #3×3 reduce, double #3×3, pool, proj
INCEPTION: dict[str, Row] = {
    "3a": Row(64, 64, 64, 64, 96, "avg", 32),
    "3b": Row(64, 64, 96, 64, 96, "avg", 64),
    "3c": Row(0, 128, 160, 64, 96, "max", 0, stride=2),
    "4a": Row(224, 64, 96, 96, 128, "avg", 128),
    "4b": Row(192, 96, 128, 96, 128, "avg", 128),
    "4c": Row(160, 128, 160, 128, 160, "avg", 128),
    "4d": Row(96, 128, 192, 160, 192, "avg", 128),
    "4e": Row(0, 128, 192, 192, 256, "max", 0, stride=2),
    "5a": Row(352, 192, 320, 160, 224, "avg", 128),
    "5b": Row(352, 192, 320, 192, 224, "max", 128),
}


class Inception(nn.Module):
    """Inception block with two 3×3 convolutions in place of the 5×5: (N, c_in, H, W) → (N, out_channels, H', W')."""

    def __init__(self, c_in: int, row: Row):
        super().__init__()

        def unit(c: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
            return conv(c, c_out, kernel, stride=stride, padding=kernel // 2, batch_norm=True)

        pool = nn.AvgPool2d if row.pool == "avg" else nn.MaxPool2d
        branches = [
            unit(c_in, row.c1, 1) if row.c1 else [],
            [*unit(c_in, row.r3, 1), *unit(row.r3, row.c3, 3, row.stride)],
            [*unit(c_in, row.r33, 1), *unit(row.r33, row.c33, 3), *unit(row.c33, row.c33, 3, row.stride)],
            [pool(3, row.stride, padding=1), *(unit(c_in, row.proj, 1) if row.proj else [])],
        ]
        self.branches = nn.ModuleList(nn.Sequential(*layers) for layers in branches if layers)
        self.out_channels = row.c1 + row.c3 + row.c33 + (row.proj or c_in)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class InceptionV2(nn.Module):
    """Inception v2: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate shift", ICML
    2015, section 4.2 and figure 5: GoogLeNet with batch norm after every convolution, two 3×3 convolutions in
    place of each 5×5, a third block at 28×28, and blocks of stride 2 (3c, 4e) instead of pooling between them; figure 5
    draws no auxiliary heads. 11,285,224 parameters at 3×224×224 and 1000 classes. Not the "Inception-v2" of Szegedy et
    al. 2016.

    Geometries: ``paper`` has the 7×7/2 stem (224 → 112 → 56 → 28 → 14 → 7). ``small`` has a 3×3/1 first
    convolution and one pooling less (32 → 16 → 8 → 4).

    Figure 5 gives 4c, 4d and 4e outputs of 576, 576 and 1024 channels, but its columns sum to 608, 608 and 1056:
    the sums are built, as in the commonly used Caffe model.

    Deviations: a plain first convolution, where the paper has a separable one with depth multiplier 8; stride 2 pooling
    inside blocks is padded by 1, like the parallel convolutions, so that odd maps fit; Kaiming initialisation (the
    paper gives none).

    Raises:
        ValueError: ``dropout`` is not allowed.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.0):
        super().__init__()
        check_argument("dropout", dropout, PROBABILITY)
        paper = geometry(image_size) == "paper"

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)  # 112 → 56 → 28

        first = dict(kernel=7, stride=2, padding=3) if paper else dict(kernel=3, stride=1, padding=1)
        self.stem = nn.Sequential(
            *conv(in_channels, 64, **first, batch_norm=True), pool(),
            *conv(64, 64, 1, batch_norm=True),
            *conv(64, 192, 3, padding=1, batch_norm=True), *([pool()] if paper else []),
        )  # fmt: skip
        self.inception = nn.ModuleDict()
        c = 192
        for name, row in INCEPTION.items():
            block = Inception(c, row)
            self.inception[name] = block
            c = block.out_channels
        classifier = nn.Linear(c, num_classes)
        self.classifier = nn.Sequential(GlobalAveragePool(), Dropout(dropout), classifier)
        init_kaiming(self, [classifier])

    def forward(self, x: Tensor) -> Output:
        x = self.stem(x)
        for block in self.inception.values():
            x = block(x)
        return Output(self.classifier(x))
