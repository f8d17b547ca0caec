"""AlexNet."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from bench.models.layers import FitTo, LocalResponseNorm, Output, conv, geometry, init_kaiming

CHANNELS = (96, 256, 384, 384, 256)  # conv1 … conv5, figure 2 (both towers together)


class Shape(NamedTuple):
    """conv1's kernel, stride and padding; the side of the last feature map; the width of fc6 and fc7."""

    conv1: tuple[int, int, int]
    side: int
    width: int


PAPER = Shape(conv1=(11, 4, 2), side=6, width=4096)  # 224 → 55 → 27 → 13 → 6
SMALL = Shape(conv1=(5, 1, 2), side=3, width=1024)  # 32 → 32 → 15 → 7 → 3


class AlexNet(nn.Module):
    """AlexNet: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012,
    sections 3 and 4: two towers (groups) joined at conv3 and at the fully connected layers, local response
    normalisation behind conv1 and conv2 (k=2, n=5, α=1e-4, β=0.75), overlapping 3×3/2 pooling, dropout on fc6
    and fc7. 60,965,224 parameters at 3×224×224 and 1000 classes.

    Geometries: ``paper`` from 96 pixels on (224 is padded by 2, which gives the published 55×55 maps; other sizes
    are pooled to 6×6); ``small`` below: conv1 5×5 stride 1, fc6 and fc7 1024 wide, which keeps the paper's
    ratio of 2.25 inputs to outputs at fc6.

    Deviations: Kaiming initialisation instead of N(0, 0.01) with ones as biases, which wants 90 epochs; batch
    norm, if asked for, replaces local response normalisation.

    Raises:
        ValueError: ``image_size`` is below 15, where the last pooling has nothing left to pool.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        towers: int = 2,
        batch_norm: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        if image_size < 15:
            raise ValueError(f"image_size={image_size}: AlexNet needs at least 15 pixels")
        shape = PAPER if geometry(image_size) == "paper" else SMALL
        kernel, stride, padding = shape.conv1
        c1, c2, c3, c4, c5 = CHANNELS

        def norm(channels: int) -> list[nn.Module]:
            # the paper's α multiplies the plain sum over the window, PyTorch's the mean
            return [] if batch_norm else [LocalResponseNorm(channels, size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)]

        self.features = nn.Sequential(
            *conv(in_channels, c1, kernel, stride=stride, padding=padding, batch_norm=batch_norm), *norm(c1),
            nn.MaxPool2d(3, 2),
            *conv(c1, c2, 5, padding=2, groups=towers, batch_norm=batch_norm), *norm(c2), nn.MaxPool2d(3, 2),
            *conv(c2, c3, 3, padding=1, batch_norm=batch_norm),
            *conv(c3, c4, 3, padding=1, groups=towers, batch_norm=batch_norm),
            *conv(c4, c5, 3, padding=1, groups=towers, batch_norm=batch_norm), nn.MaxPool2d(3, 2),
            FitTo(shape.side),
        )  # fmt: skip
        width = shape.width
        classifier = nn.Linear(width, num_classes)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(c5 * shape.side**2, width), nn.ReLU(inplace=True), nn.Dropout(dropout),  # fc6
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(dropout),  # fc7
            classifier,  # fc8
        )  # fmt: skip
        init_kaiming(self, [classifier])

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))
