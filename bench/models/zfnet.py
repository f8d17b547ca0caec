"""ZFNet."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from bench.models.kernels import LocalResponseNorm
from bench.models.layers import FitTo, Output, conv, fully_connected, geometry, init_kaiming
from bench.rules import PROBABILITY, check_argument

CHANNELS = (96, 256, 384, 384, 256)  # layers 1 … 5, figure 3


class Shape(NamedTuple):
    """Kernel, stride and padding of layers 1 and 2; the side of the last feature map; the width of layers 6 and 7."""

    layer1: tuple[int, int, int]
    layer2: tuple[int, int, int]
    side: int
    width: int


PAPER = Shape(layer1=(7, 2, 1), layer2=(5, 2, 0), side=6, width=4096)  # 224 → 110 → 55 → 26 → 13 → 6
SMALL = Shape(layer1=(3, 1, 1), layer2=(5, 1, 2), side=4, width=1024)  # 32 → 32 → 16 → 16 → 8 → 4


class ZFNet(nn.Module):
    """ZFNet: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    Zeiler, Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, figure 3: AlexNet in one tower
    with a 7×7/2 first and a 5×5/2 second convolution, 3×3/2 max pooling and then contrast normalisation across
    maps after both, dropout on layers 6 and 7. 62,357,608 parameters at 3×224×224 and 1000 classes.

    Geometries: ``paper`` from 96 pixels (224 → 110 → 55 → 26 → 13 → 6; other sizes are pooled to 6×6); ``small``
    below: a 3×3 first convolution, strides only in pooling, layers 6 and 7 1024 wide, from 4×4 maps.

    Deviations: contrast normalisation, for which the paper gives no constants, is AlexNet's (k=2, n=5, α=1e-4, β=0.75);
    Kaiming initialisation instead of the paper's constant scale of 1e-2; filters are not scaled
    down to an RMS of 0.1 in training (section 3).

    Raises:
        ValueError: ``image_size`` is below 8, where nothing is left for the last pooling, or ``dropout`` is not
            allowed.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, image_size: int = 224, dropout: float = 0.5):
        super().__init__()
        check_argument("dropout", dropout, PROBABILITY)
        if image_size < 8:
            raise ValueError(f"image_size={image_size}: ZFNet needs at least 8 pixels")
        shape = PAPER if geometry(image_size) == "paper" else SMALL
        c1, c2, c3, c4, c5 = CHANNELS

        def norm(channels: int) -> nn.Module:
            return LocalResponseNorm(channels, size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)  # 110 → 55, 26 → 13 → 6

        kernel1, stride1, padding1 = shape.layer1
        kernel2, stride2, padding2 = shape.layer2
        self.features = nn.Sequential(
            *conv(in_channels, c1, kernel1, stride=stride1, padding=padding1), pool(), norm(c1),
            *conv(c1, c2, kernel2, stride=stride2, padding=padding2), pool(), norm(c2),
            *conv(c2, c3, 3, padding=1),
            *conv(c3, c4, 3, padding=1),
            *conv(c4, c5, 3, padding=1), pool(),
            FitTo(shape.side),
        )  # fmt: skip
        self.classifier = fully_connected(c5 * shape.side**2, shape.width, num_classes, dropout)
        init_kaiming(self, [self.classifier[-1]])

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))
