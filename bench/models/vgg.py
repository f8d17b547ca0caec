"""VGG."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from bench.models.layers import (
    FitTo,
    Output,
    conv,
    fully_connected,
    geometry,
    init_kaiming,
    init_normal,
)
from bench.rules import PROBABILITY, SWITCH, check_argument, choice

# table 1 of the paper: channels of the 3×3 convolutions, block by block; a 2×2 max pooling ends each block
BLOCKS: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),  # A
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),  # B
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),  # D
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),  # E
}
PAPER = dict(side=7, width=4096)  # 224 → 112 → 56 → 28 → 14 → 7
SMALL = dict(side=1, width=512)  # 32 → 16 → 8 → 4 → 2 → 1


class VGG(nn.Module):
    """VGG-11, 13, 16 and 19: (N, in_channels, S, S) → ``Output(logits=(N, num_classes))``.

    Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, table 1,
    configurations A, B, D and E; dropout on the first two fully connected layers (section 3.1).

    Geometries: the five blocks are the same in both; ``paper`` has the 7×7×512 → 4096 → 4096 head, ``small`` a
    1×1×512 → 512 → 512 head. Other sizes are average pooled to 7×7 or 1×1.

    ``init=paper``: weights from N(0, 0.01²), biases 0, as for A. Section 3.1 gives 10⁻² as the variance, read here as
    the standard deviation: otherwise values would grow up to fivefold with each convolution. The authors initialised
    the deeper networks with layers of a trained A, and later found that Glorot's initialisation would have sufficed.

    Deviations: Kaiming initialisation by default; optional batch norm (not in the paper) after every convolution.

    Raises:
        ValueError: ``image_size`` is below 32, which five poolings halve to 1, or another argument is not allowed.
    """

    def __init__(
        self,
        depth: int = 16,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        batch_norm: bool = False,
        dropout: float = 0.5,
        init: Literal["kaiming", "paper"] = "kaiming",
    ):
        super().__init__()
        check_argument("depth", depth, choice(*BLOCKS))
        check_argument("batch_norm", batch_norm, SWITCH)
        check_argument("dropout", dropout, PROBABILITY)
        check_argument("init", init, choice("kaiming", "paper"))
        if image_size < 32:
            raise ValueError(f"image_size={image_size}: VGG needs at least 32 pixels")
        shape = PAPER if geometry(image_size) == "paper" else SMALL
        layers: list[nn.Module] = []
        c = in_channels
        for block in BLOCKS[depth]:
            for width in block:
                layers += conv(c, width, 3, padding=1, batch_norm=batch_norm)
                c = width
            layers += [nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, FitTo(shape["side"]))
        self.classifier = fully_connected(c * shape["side"] ** 2, shape["width"], num_classes, dropout)
        if init == "kaiming":
            init_kaiming(self, [self.classifier[-1]])
        else:
            init_normal(self, std=0.01)

    def forward(self, x: Tensor) -> Output:
        return Output(self.classifier(self.features(x)))
