"""GoogLeNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.layers import FitTo, GlobalAveragePool, LocalResponseNorm, Output, conv, geometry, init_kaiming

# table 1 of the paper: #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj
INCEPTION: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_AFTER = ("3b", "4e")  # 3×3/2 max pooling
AUX_AFTER = ("4a", "4d")


class Inception(nn.Module):
    """Inception block with dimension reduction, figure 2b: (N, c_in, H, W) → (N, c1 + c3 + c5 + proj, H, W)."""

    def __init__(self, c_in: int, table: tuple[int, int, int, int, int, int], batch_norm: bool):
        super().__init__()
        c1, r3, c3, r5, c5, proj = table
        self.branch1 = nn.Sequential(*conv(c_in, c1, 1, batch_norm=batch_norm))
        self.branch3 = nn.Sequential(
            *conv(c_in, r3, 1, batch_norm=batch_norm), *conv(r3, c3, 3, padding=1, batch_norm=batch_norm)
        )
        self.branch5 = nn.Sequential(
            *conv(c_in, r5, 1, batch_norm=batch_norm), *conv(r5, c5, 5, padding=2, batch_norm=batch_norm)
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), *conv(c_in, proj, 1, batch_norm=batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.pool(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """Auxiliary classifier, section 5: (N, c_in, H, W) → logits (N, num_classes).

    5×5/3 average pooling (14×14 → 4×4, 8×8 → 2×2), 1×1 convolution to 128 channels, fully connected 1024,
    dropout 0.7, linear. Other sizes are pooled, or spread, to ``side`` × ``side``.
    """

    def __init__(self, c_in: int, num_classes: int, side: int, batch_norm: bool, dropout: float):
        super().__init__()
        self.features = nn.Sequential(
            nn.AvgPool2d(5, 3), *conv(c_in, 128, 1, batch_norm=batch_norm),
            FitTo(side), nn.Flatten(),
            nn.Linear(128 * side * side, 1024), nn.ReLU(inplace=True), nn.Dropout(dropout),
        )  # fmt: skip
        self.classifier = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class GoogLeNet(nn.Module):
    """GoogLeNet: (N, in_channels, S, S) → ``Output(logits=(N, num_classes), aux)``.

    Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1 and section 5: nine Inception blocks with
    a true 5×5 branch, local response normalisation in the stem, no batch norm, auxiliary heads behind 4a and 4d.
    ``aux`` holds their two logits in training and is empty in evaluation, where the heads are not run. 6,998,552
    parameters without the heads at 3×224×224 and 1000 classes.

    Geometries: ``paper`` has the 7×7/2 stem (224 → 112 → 56 → 28 → 14 → 7). ``small`` has a 3×3/1 first
    convolution and one pooling less (32 → 16 → 8 → 4).

    Deviations: Kaiming initialisation (the paper gives none); batch norm behind every convolution in place of
    local response normalisation if asked for; k=1, n=5, α=1e-4, β=0.75 as in the authors' Caffe model.

    Raises:
        ValueError: the auxiliary heads' 5×5 pooling does not fit ``image_size``.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: int = 224,
        batch_norm: bool = False,
        aux_heads: bool = True,
        dropout: float = 0.4,
        aux_dropout: float = 0.7,
    ):
        super().__init__()
        paper = geometry(image_size) == "paper"
        if aux_heads and image_size < 20:
            raise ValueError(
                f"image_size={image_size}: the auxiliary heads need at least 20 pixels; or aux_heads=false"
            )

        def norm(channels: int) -> list[nn.Module]:
            return [] if batch_norm else [LocalResponseNorm(channels, size=5, alpha=1e-4, beta=0.75, k=1.0)]

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)  # 112 → 56 → 28 → 14 → 7

        first = dict(kernel=7, stride=2, padding=3) if paper else dict(kernel=3, stride=1, padding=1)
        self.stem = nn.Sequential(
            *conv(in_channels, 64, **first, batch_norm=batch_norm), pool(), *norm(64),
            *conv(64, 64, 1, batch_norm=batch_norm),
            *conv(64, 192, 3, padding=1, batch_norm=batch_norm), *norm(192), *([pool()] if paper else []),
        )  # fmt: skip
        self.inception = nn.ModuleDict()
        self.aux_heads = nn.ModuleDict()
        aux_classifiers = []
        self.pool = pool()
        c = 192
        for name, table in INCEPTION.items():
            self.inception[name] = Inception(c, table, batch_norm)
            c = table[0] + table[2] + table[4] + table[5]
            if aux_heads and name in AUX_AFTER:
                head = AuxiliaryHead(c, num_classes, 4 if paper else 2, batch_norm, aux_dropout)
                self.aux_heads[name] = head
                aux_classifiers.append(head.classifier)
        classifier = nn.Linear(c, num_classes)
        self.classifier = nn.Sequential(GlobalAveragePool(), nn.Dropout(dropout), classifier)
        init_kaiming(self, [classifier, *aux_classifiers])

    def forward(self, x: Tensor) -> Output:
        x = self.stem(x)
        aux: list[Tensor] = []
        for name, block in self.inception.items():
            x = block(x)
            if self.training and name in self.aux_heads:
                aux.append(self.aux_heads[name](x))
            if name in POOL_AFTER:
                x = self.pool(x)
        return Output(self.classifier(x), tuple(aux))
