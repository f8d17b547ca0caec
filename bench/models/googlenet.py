"""GoogLeNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bench.models.kernels import Dropout, LocalResponseNorm
from bench.models.layers import FitTo, GlobalAveragePool, Output, conv, geometry, init_kaiming
from bench.rules import PROBABILITY, SWITCH, check_argument, check_arguments, choice

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
AUX_AFTER = ("4a", "4d")


class Inception(nn.Module):
    """Inception block, figure 2: (N, c_in, H, W) → (N, out_channels, H, W).

    With dimension reduction (figure 2b) ``out_channels`` is c1 + c3 + c5 + proj; ``naive`` (figure 2a) has no 1×1
    convolutions before the 3×3 and 5×5 ones and none after the pooling, and c1 + c3 + c5 + c_in channels.
    ``kernel5`` is the kernel of the 5×5 branch.
    """

    def __init__(
        self,
        c_in: int,
        table: tuple[int, int, int, int, int, int],
        batch_norm: bool = False,
        kernel5: int = 5,
        naive: bool = False,
    ):
        super().__init__()
        c1, r3, c3, r5, c5, proj = table

        def branch(reduced: int, c_out: int, kernel: int) -> nn.Sequential:
            first = [] if naive else conv(c_in, reduced, 1, batch_norm=batch_norm)
            c = c_in if naive else reduced
            return nn.Sequential(*first, *conv(c, c_out, kernel, padding=kernel // 2, batch_norm=batch_norm))

        self.branch1 = nn.Sequential(*conv(c_in, c1, 1, batch_norm=batch_norm))
        self.branch3 = branch(r3, c3, 3)
        self.branch5 = branch(r5, c5, kernel5)
        projection = [] if naive else conv(c_in, proj, 1, batch_norm=batch_norm)
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), *projection)
        self.out_channels = c1 + c3 + c5 + (c_in if naive else proj)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.pool(x)], dim=1)


class AuxiliaryHead(nn.Module):
    """Auxiliary classifier, section 5: (N, c_in, H, W) → logits (N, num_classes).

    Average pooling, 1×1 convolution to 128 channels, fully connected 1024, dropout 0.7, linear. ``pool``: 5×5/3
    (14×14 → 4×4, 8×8 → 2×2), with other sizes then pooled or enlarged to ``side`` × ``side``; or directly to that size.
    """

    def __init__(self, c_in: int, num_classes: int, side: int, batch_norm: bool, dropout: float, pool: nn.Module):
        super().__init__()
        self.features = nn.Sequential(
            pool, *conv(c_in, 128, 1, batch_norm=batch_norm),
            FitTo(side), nn.Flatten(),
            nn.Linear(128 * side * side, 1024), nn.ReLU(inplace=True), Dropout(dropout),
        )  # fmt: skip
        self.classifier = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class GoogLeNet(nn.Module):
    """GoogLeNet: (N, in_channels, S, S) → ``Output(logits=(N, num_classes), aux)``.

    Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1 and section 5: nine Inception blocks with
    a true 5×5 branch, local response normalisation in the stem, no batch norm, auxiliary heads after 4a and 4d.
    ``aux`` holds their two logits in training and is empty in evaluation, where the heads are not run. 6,998,552
    parameters without the heads at 3×224×224 and 1000 classes.

    Geometries: ``paper`` has the 7×7/2 stem (224 → 112 → 56 → 28 → 14 → 7). ``small`` has a 3×3/1 first
    convolution and one pooling less (32 → 16 → 8 → 4).

    ``torchvision=true``, which needs batch norm, follows torchvision's GoogLeNet: a 3×3 kernel in the 5×5 branch, 2×2
    pooling after 4e, heads that pool maps of any size to 4×4 (2×2 in the small geometry), ε = 1e-3 in batch norm;
    6,624,904 parameters. Its ``dropout``, 0.2, must be set by the caller. ``naive=true`` has Inception blocks without
    dimension reduction.

    ``init=caffe``: as in the Caffe model created with the authors' help, uniform weights of variance 1/fan_in, biases
    0.2, 0 for the classifiers. The paper gives none; the authors' was Gaussian, according to that model's notes.

    Local response normalisation has the constants of that Caffe model, k=1, n=5, α=1e-4, β=0.75; the paper gives none.

    Deviations: Kaiming initialisation by default; optionally batch norm after every convolution in place of local
    response normalisation.

    Raises:
        ValueError: the auxiliary heads' 5×5 pooling does not fit ``image_size``, ``torchvision`` is set without
            ``batch_norm`` or with ``naive``, or another argument is not allowed.
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
        naive: bool = False,
        torchvision: bool = False,
        init: Literal["kaiming", "caffe"] = "kaiming",
    ):
        super().__init__()
        check_arguments(SWITCH, batch_norm=batch_norm, aux_heads=aux_heads, naive=naive, torchvision=torchvision)
        check_arguments(PROBABILITY, dropout=dropout, aux_dropout=aux_dropout)
        check_argument("init", init, choice("kaiming", "caffe"))
        paper = geometry(image_size) == "paper"
        if torchvision and (naive or not batch_norm):
            raise ValueError("torchvision=true: needs batch_norm=true and naive=false")
        if aux_heads and image_size < 20 and not torchvision:
            raise ValueError(
                f"image_size={image_size}: the auxiliary heads need at least 20 pixels; or aux_heads=false"
            )

        def norm(channels: int) -> list[nn.Module]:
            return [] if batch_norm else [LocalResponseNorm(channels, size=5, alpha=1e-4, beta=0.75, k=1.0)]

        def pool(kernel: int = 3) -> nn.Module:
            return nn.MaxPool2d(kernel, 2, ceil_mode=True)  # 112 → 56 → 28 → 14 → 7

        first = dict(kernel=7, stride=2, padding=3) if paper else dict(kernel=3, stride=1, padding=1)
        self.stem = nn.Sequential(
            *conv(in_channels, 64, **first, batch_norm=batch_norm), pool(), *norm(64),
            *conv(64, 64, 1, batch_norm=batch_norm),
            *conv(64, 192, 3, padding=1, batch_norm=batch_norm), *norm(192), *([pool()] if paper else []),
        )  # fmt: skip
        self.inception = nn.ModuleDict()
        self.aux_heads = nn.ModuleDict()
        self.pools = nn.ModuleDict({"3b": pool(), "4e": pool(2 if torchvision else 3)})
        aux_classifiers = []
        c = 192
        for name, table in INCEPTION.items():
            block = Inception(c, table, batch_norm, kernel5=3 if torchvision else 5, naive=naive)
            self.inception[name] = block
            c = block.out_channels
            if aux_heads and name in AUX_AFTER:
                side = 4 if paper else 2
                aux_pool = FitTo(side) if torchvision else nn.AvgPool2d(5, 3)
                head = AuxiliaryHead(c, num_classes, side, batch_norm, aux_dropout, aux_pool)
                self.aux_heads[name] = head
                aux_classifiers.append(head.classifier)
        classifier = nn.Linear(c, num_classes)
        self.classifier = nn.Sequential(GlobalAveragePool(), Dropout(dropout), classifier)
        if init == "kaiming":
            init_kaiming(self, [classifier, *aux_classifiers])
        else:
            init_as_caffe(self, [classifier, *aux_classifiers])
        if torchvision:
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eps = 1e-3

    def forward(self, x: Tensor) -> Output:
        x = self.stem(x)
        aux: list[Tensor] = []
        for name, block in self.inception.items():
            x = block(x)
            if self.training and name in self.aux_heads:
                aux.append(self.aux_heads[name](x))
            if name in self.pools:
                x = self.pools[name](x)
        return Output(self.classifier(x), tuple(aux))


def init_as_caffe(model: nn.Module, classifiers: list[nn.Linear]) -> None:
    """Weights uniform in ±√(3/fan_in), Caffe's "xavier"; biases 0.2, of ``classifiers`` 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = (3 / layer.weight[0].numel()) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.0 if layer in classifiers else 0.2)
