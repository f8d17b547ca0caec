"""What the architectures share: the output contract, the geometry rule, normalisation, initialisation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALL_BELOW = 96
"""Images with a side shorter than this (pixels) get an architecture's ``small`` geometry, others its paper's."""

AUX_HEADS = "aux_heads"
"""The attribute in which networks keep auxiliary heads: they train, but are no part of the network that is used."""


class Output(NamedTuple):
    """What every network returns, in training and in evaluation alike.

    ``logits``: (N, num_classes), unnormalised. ``aux``: the logits of the auxiliary heads, each
    (N, num_classes), in the order of their depth; empty for networks without heads and in evaluation.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()


def geometry(image_size: int) -> Literal["small", "paper"]:
    """The one rule that says which form of an architecture an image size gets.

    ``paper``: strides, kernels and head as published, for images of about 224×224. ``small``: fewer early
    strides and a narrower head, so that the feature maps keep the published proportions on 32×32 … 64×64.
    """
    return "small" if image_size < SMALL_BELOW else "paper"


class _LocalResponseNorm(torch.autograd.Function):
    """y = x · s^-β with s = k + α/n · W(x²), W the sum over the n neighbouring channels.

    W is symmetric, so the gradient closes: gx = g · s^-β − 2αβ/n · x · W(g · y / s).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, alpha: float, beta: float, k: float) -> Tensor:
        s = F.conv2d(x * x, band).mul_(alpha).add_(k)
        # s^-3/4 by two square roots: several times faster than pow
        scale = (r := s.rsqrt()).mul_(r.sqrt()) if beta == 0.75 else s.pow(-beta)
        ctx.save_for_backward(x, s, scale, band)
        ctx.alpha, ctx.beta = alpha, beta
        return x * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, s, scale, band = ctx.saved_tensors
        g = grad * scale
        window = F.conv2d((g * x).div_(s), band)
        return g.sub_(window.mul_(x), alpha=2 * ctx.alpha * ctx.beta), None, None, None, None


class LocalResponseNorm(nn.Module):
    """Local response normalisation over ``size`` neighbouring channels, (N, C, H, W) → the same shape.

    Krizhevsky et al. 2012, section 3.3, with the arguments of :class:`torch.nn.LocalResponseNorm`: ``alpha``
    is divided by ``size`` (the paper's is not). Equal to PyTorch's layer in value and gradient, computed with a
    closed-form gradient and the channel window as a banded 1×1 convolution, which has a bf16 kernel.

    Raises:
        ValueError: ``size`` is not odd and positive.
    """

    band: Tensor

    def __init__(self, channels: int, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size={size}: the channel window must be odd and positive")
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k
        i = torch.arange(channels)
        band = (i[:, None] - i[None, :]).abs() <= size // 2  # (C, C), ones on the diagonals of the window
        self.register_buffer("band", band.float()[:, :, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        band = self.band.to(x.dtype)
        return _LocalResponseNorm.apply(x, band, self.alpha / self.size, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class FitTo(nn.Module):
    """Average pooling to ``side`` × ``side``: (N, C, H, W) → (N, C, side, side); the input if it has that size."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        # not called where it changes nothing: its gradient costs a copy and has no deterministic form on a GPU
        return x if x.shape[-2:] == (self.side, self.side) else F.adaptive_avg_pool2d(x, self.side)

    def extra_repr(self) -> str:
        return f"{self.side}"


class GlobalAveragePool(nn.Module):
    """The mean of each map: (N, C, H, W) → (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def conv(c_in: int, c_out: int, kernel: int, *, batch_norm: bool = False, **kwargs: Any) -> list[nn.Module]:
    """Convolution, batch norm if asked for, ReLU: (N, c_in, H, W) → (N, c_out, H', W')."""
    layer = nn.Conv2d(c_in, c_out, kernel, bias=not batch_norm, **kwargs)
    return [layer, *([nn.BatchNorm2d(c_out)] if batch_norm else []), nn.ReLU(inplace=True)]


def fully_connected(c_in: int, width: int, num_classes: int, dropout: float) -> nn.Sequential:
    """AlexNet's head, which ZFNet and VGG took over: (N, C, H, W) → (N, num_classes).

    Two hidden layers, each with ReLU and dropout (fc6, fc7), and a linear one (fc8); ``c_in`` is C·H·W.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(c_in, width), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Linear(width, num_classes),
    )  # fmt: skip


def init_kaiming(model: nn.Module, classifiers: Iterable[nn.Module] = ()) -> None:
    """Kaiming initialisation for ReLU networks: weights from N(0, 2/fan_in), biases 0.

    He et al. 2015, equation 10; without it deep networks that have no batch norm stay at chance. ``classifiers``,
    the last layers of the network and of its auxiliary heads, get N(0, 0.01) as in AlexNet and VGG: logits near
    zero at first, where large ones send VGG-16 back to chance.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for classifier in classifiers:
        assert isinstance(classifier, nn.Linear)
        nn.init.normal_(classifier.weight, std=0.01)
