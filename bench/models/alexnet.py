"""AlexNet."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from bench.models.kernels import LocalResponseNorm
from bench.models.layers import FitTo, Output, conv, fully_connected, geometry, init_kaiming
from bench.rules import PROBABILITY, SWITCH, check_argument, choice

# channels of conv1 … conv5
TWO_TOWERS = (96, 256, 384, 384, 256)  # Krizhevsky et al. 2012, figure 2, both towers together
ONE_TOWER = (64, 192, 384, 256, 256)  # torchvision, from the configuration of cuda-convnet2 for one GPU


class Shape(NamedTuple):
    """conv1's kernel and stride; the side of the last feature map; the width of fc6 and fc7."""

    kernel: int
    stride: int
    side: int
    width: int


PAPER = Shape(kernel=11, stride=4, side=6, width=4096)  # 227 → 55 → 27 → 13 → 6
SMALL = Shape(kernel=5, stride=1, side=3, width=1024)  # 32 → 32 → 15 → 7 → 3


class AlexNet(nn.Module):
    """AlexNet: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012,
    sections 3 and 4: two towers (groups) joined at conv3 and at the fully connected layers, local response
    normalisation after conv1 and conv2 (k=2, n=5, α=1e-4, β=0.75), overlapping 3×3/2 pooling, dropout on fc6
    and fc7. 60,965,224 parameters at 3×227×227 and 1000 classes.

    ``towers=1``: torchvision's AlexNet, after Krizhevsky, "One weird trick for parallelizing convolutional neural
    networks", 2014: fewer channels, no local response normalisation; 61,100,840 parameters. The paper's footnote 1 has
    384 maps in conv4, torchvision 256. Dropout is after fc6 and fc7, in torchvision before them.

    Geometries: ``paper`` from 96 pixels. 227 pixels give the published 55×55 maps without padding; smaller images,
    including the 224 of the paper's text, are padded by 2, which gives the same for 224; with one tower all sizes are,
    as in torchvision. Other sizes are pooled to 6×6. ``small`` below: conv1 5×5 stride 1, fc6 and fc7 1024 wide, which
    keeps the paper's ratio of 2.25 inputs to outputs at fc6.

    ``init=paper``: weights from N(0, 0.01²), biases of conv2, conv4, conv5, fc6 and fc7 one, the others zero
    (section 5). It needs the paper's 90 epochs.

    Deviations: Kaiming initialisation by default; optional batch norm replaces local response normalisation, whose
    windows span both towers at their boundary, as in Caffe (the authors' towers are on two GPUs, which do not
    communicate there).

    Raises:
        ValueError: ``image_size`` is below 15, where nothing is left for the last pooling, or another argument is not
            allowed.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 227,
        towers: Literal[1, 2] = 2,
        batch_norm: bool = False,
        dropout: float = 0.5,
        init: Literal["kaiming", "paper"] = "kaiming",
    ):
        super().__init__()
        if image_size < 15:
            raise ValueError(f"image_size={image_size}: AlexNet needs at least 15 pixels")
        check_argument("towers", towers, choice(1, 2))
        check_argument("batch_norm", batch_norm, SWITCH)
        check_argument("dropout", dropout, PROBABILITY)
        check_argument("init", init, choice("kaiming", "paper"))
        shape = PAPER if geometry(image_size) == "paper" else SMALL
        c1, c2, c3, c4, c5 = TWO_TOWERS if towers == 2 else ONE_TOWER
        padding = 0 if towers == 2 and image_size >= 227 else 2

        def norm(channels: int) -> list[nn.Module]:
            if batch_norm or towers == 1:
                return []
            # the paper's α multiplies the plain sum over the window, PyTorch's the mean
            return [LocalResponseNorm(channels, size=5, alpha=5 * 1e-4, beta=0.75, k=2.0)]

        self.features = nn.Sequential(
            *conv(in_channels, c1, shape.kernel, stride=shape.stride, padding=padding, batch_norm=batch_norm),
            *norm(c1), nn.MaxPool2d(3, 2),
            *conv(c1, c2, 5, padding=2, groups=towers, batch_norm=batch_norm), *norm(c2), nn.MaxPool2d(3, 2),
            *conv(c2, c3, 3, padding=1, batch_norm=batch_norm),
            *conv(c3, c4, 3, padding=1, groups=towers, batch_norm=batch_norm),
            *conv(c4, c5, 3, padding=1, groups=towers, batch_norm=batch_norm), nn.MaxPool2d(3, 2),
            FitTo(shape.side),
        )  # fmt: skip
        self.classifier = fully_connected(c5 * shape.side**2, shape.width, num_classes, dropout)
        if init == "kaiming":
            init_kaiming(self, [self.classifier[-1]])
        else:
            init_as_published(self)

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))


def init_as_published(model: AlexNet) -> None:
    """Section 5: weights from N(0, 0.01²); ones as biases of conv2, conv4, conv5, fc6 and fc7, zeros as the others."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for i, layer in enumerate(layers, start=1):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 1.0 if i in (2, 4, 5, 6, 7) else 0.0)
