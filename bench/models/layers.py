"""What the architectures share: the output contract, the geometry rule, heads, initialisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.kernels import Dropout
from bench.models.winograd import Conv2d

SMALL_BELOW = 96
"""Images with a side shorter than this (pixels) get an architecture's ``small`` geometry, others its paper's."""

AUX_HEADS = "aux_heads"
"""The name of the attribute that holds auxiliary heads, which are trained but not part of the network as evaluated."""


class Output(NamedTuple):
    """What every network returns, in training and evaluation.

    ``logits``: (N, num_classes), unnormalised. ``aux``: the logits of the auxiliary heads, each
    (N, num_classes), in order of depth; empty for networks without heads and in evaluation.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()


def geometry(image_size: int) -> Literal["small", "paper"]:
    """The geometry of an architecture for an image size.

    ``paper``: strides, kernels and head as published, for images of about 224×224. ``small``: fewer early
    strides and a narrower head, so that the feature maps keep the published proportions on 32×32 … 64×64.
    """
    return "small" if image_size < SMALL_BELOW else "paper"


class FitTo(nn.Module):
    """Average pooling to ``side`` × ``side``: (N, C, H, W) → (N, C, side, side); the input if it has that size."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        # not called if it changes nothing: its gradient costs a copy and is not deterministic on CUDA GPUs
        if x.shape[-2:] == (self.side, self.side):
            return x
        uneven = any(size % self.side for size in x.shape[-2:])
        if (x.is_cuda and torch.are_deterministic_algorithms_enabled()) or (x.is_mps and uneven):  # Apple GPUs lack it
            return self.pooled_by_matrices(x)
        return F.adaptive_avg_pool2d(x, self.side)

    def pooled_by_matrices(self, x: Tensor) -> Tensor:
        """The same by two matrix products, whose gradient is deterministic."""
        rows, columns = (self._shares(size, x) for size in x.shape[-2:])
        return rows @ x @ columns.T

    def _shares(self, size: int, like: Tensor) -> Tensor:
        """(side, size): each row averages the positions that adaptive pooling does; made where ``like`` is."""
        bins, places = (torch.arange(n, device=like.device) for n in (self.side, size))
        begin, end = bins * size // self.side, -(-(bins + 1) * size // self.side)
        within = (places >= begin[:, None]) & (places < end[:, None])
        return (within / (end - begin)[:, None]).to(like.dtype)

    def extra_repr(self) -> str:
        return f"{self.side}"


class GlobalAveragePool(nn.Module):
    """The mean of each map: (N, C, H, W) → (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def conv(c_in: int, c_out: int, kernel: int, *, batch_norm: bool = False, **kwargs: Any) -> list[nn.Module]:
    """Convolution, optional batch norm, ReLU: (N, c_in, H, W) → (N, c_out, H', W')."""
    layer = Conv2d(c_in, c_out, kernel, bias=not batch_norm, **kwargs)
    return [layer, *([nn.BatchNorm2d(c_out)] if batch_norm else []), nn.ReLU(inplace=True)]


def fully_connected(c_in: int, width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """AlexNet's head, also used by ZFNet and VGG: (N, C, H, W) → (N, num_classes).

    Two hidden layers, each with ReLU and dropout (fc6, fc7), and a linear one (fc8); ``c_in`` is C·H·W.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(c_in, width), nn.ReLU(inplace=True), Dropout(dropout),
        nn.Linear(width, width), nn.ReLU(inplace=True), Dropout(dropout),
        nn.Linear(width, num_classes),
    )  # fmt: skip


def init_normal(model: nn.Module, std: float) -> None:
    """Weights from N(0, std²), biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_kaiming(model: nn.Module, classifiers: Iterable[nn.Module] = ()) -> None:
    """Kaiming initialisation for ReLU networks: weights from N(0, 2/fan_in), biases 0.

    He et al. 2015, equation 10; without it deep networks without batch norm stay at chance. ``classifiers``, the last
    layers of the network and its auxiliary heads, get N(0, 0.01²) as in AlexNet and VGG: logits start near zero, as
    large ones send VGG-16 back to chance.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for classifier in classifiers:
        assert isinstance(classifier, nn.Linear)
        nn.init.normal_(classifier.weight, std=0.01)
