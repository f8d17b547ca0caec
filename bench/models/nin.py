"""Network in Network."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from bench.models.kernels import Dropout
from bench.models.layers import GlobalAveragePool, Output, conv, geometry, init_kaiming, init_normal
from bench.rules import PROBABILITY, SWITCH, check_argument, choice

# one row per mlpconv block: kernel, stride, padding, then the channels of its convolution and of its two 1×1
# convolutions; None stands for the number of classes. 3×3/2 max pooling and dropout separate the blocks.
SMALL = (
    (5, 1, 2, 192, 160, 96),
    (5, 1, 2, 192, 192, 192),
    (3, 1, 1, 192, 192, None),
)
PAPER = (
    (11, 4, 0, 96, 96, 96),
    (5, 1, 2, 256, 256, 256),
    (3, 1, 1, 384, 384, 384),
    (3, 1, 1, 1024, 1024, None),
)


class NiN(nn.Module):
    """Network in Network: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    Lin, Chen, Yan, "Network in network", ICLR 2014: mlpconv blocks (section 3.1), global average pooling over one
    map per class (section 3.2), max pooling and dropout after all but the last block (section 4.1). Channels and
    kernels, which the paper does not give, are those of the authors' Caffe models.

    Geometries: ``small`` is the CIFAR-10 network (966,986 parameters at 3 channels, 10 classes), ``paper`` the
    ImageNet network with four blocks (7,595,176 parameters at 1000 classes).

    Deviations: max pooling after the second CIFAR-10 block, as in the paper (the Caffe model averages there); dropout
    after all three poolings also in the ImageNet form (in the Caffe model only after the third); no ReLU after the last
    1×1 convolution: with it the class maps die early and the network stays at chance; optional batch norm (after every
    convolution but the last); Kaiming initialisation by default.

    ``init=caffe``: weights from N(0, 0.05²), biases 0, as in the authors' Caffe model for CIFAR-10, whatever the
    geometry; the paper gives none.

    Raises:
        ValueError: ``batch_norm``, ``dropout`` or ``init`` is not an allowed value.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        batch_norm: bool = False,
        dropout: float = 0.5,
        init: Literal["kaiming", "caffe"] = "kaiming",
    ):
        super().__init__()
        check_argument("batch_norm", batch_norm, SWITCH)
        check_argument("dropout", dropout, PROBABILITY)
        check_argument("init", init, choice("kaiming", "caffe"))
        layers: list[nn.Module] = []
        c = in_channels
        for kernel, stride, padding, width, mlp1, mlp2 in PAPER if geometry(image_size) == "paper" else SMALL:
            layers += conv(c, width, kernel, stride=stride, padding=padding, batch_norm=batch_norm)
            layers += conv(width, mlp1, 1, batch_norm=batch_norm)
            if mlp2 is not None:
                layers += conv(mlp1, mlp2, 1, batch_norm=batch_norm)
                layers += [nn.MaxPool2d(3, 2, ceil_mode=True), Dropout(dropout)]
                c = mlp2
        classifier = nn.Conv2d(mlp1, num_classes, 1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(classifier, GlobalAveragePool())
        if init == "kaiming":
            init_kaiming(self)
        else:
            init_normal(self, std=0.05)

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))
