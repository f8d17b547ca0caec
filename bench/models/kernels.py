"""Layers whose PyTorch kernels are slow on CPUs: the same functions, built from operations that are fast there.

``bench-speed models`` measures each against PyTorch's. In evaluation, on other devices and under ``torch.compile``,
dropout and max pooling are PyTorch's own. Convolutions: ``winograd.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _LocalResponseNorm(torch.autograd.Function):
    """y = x · s^-β with s = k + α/n · W(x²), W the sum over the n neighbouring channels.

    W is symmetric, so the gradient has a closed form: gx = g · s^-β − 2αβ/n · x · W(g · y / s).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, band: Tensor, alpha: float, beta: float, k: float) -> Tensor:
        s = F.conv2d(x * x, band).mul_(alpha).add_(k)
        # s^-3/4 by two square roots: several times faster than pow
        scale = (r := s.rsqrt()).mul_(r.sqrt()) if beta == 0.75 else s.pow(-beta)
        scale = scale.to(x.dtype)  # roots and powers are in 32 bits under a GPU's autocast
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
    closed-form gradient and the channel window as a banded 1×1 convolution, which has a bf16 kernel. The gradient can
    be taken once, and not by ``torch.func``.

    In bf16 the sum that divides is rounded to bf16, too, by up to 0.4 %. With the papers' ``alpha`` it is seldom that
    far from ``k``: for most values the layer is then a constant factor, as it would be after rounding the result.

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


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout`, with its random bits drawn four values at a time.

    PyTorch draws a number for each value, on one thread: a tenth of NiN's training step. Here 16 bits decide, so ``p``
    is rounded to a multiple of 2^-16. Kept values are scaled by the inverse of the fraction kept, in their own dtype,
    as in PyTorch.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * 2**16)  # of 2^16 values
        if not trains_on_cpu(self, x) or self.inplace or dropped in (0, 2**16):
            return super().forward(x)
        mask = torch.empty_like(x, requires_grad=False)
        numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        bits = numbers.view(torch.int16)[: x.numel()].as_strided(mask.shape, mask.stride())  # in memory order
        torch.ge(bits, dropped - 2**15, out=mask)
        return x * mask.mul_(2**16 / (2**16 - dropped))


class _MaxPool2x2(torch.autograd.Function):
    """Pairs of pixels, then pairs of rows; the gradient goes to the first of equal values, as in PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        pairs = x.permute(0, 2, 3, 1).reshape(n, h, w // 2, 2, c)
        left, right = pairs[..., 0, :].contiguous(), pairs[..., 1, :].contiguous()
        rows = torch.maximum(left, right).view(n, h // 2, 2, w // 2, c)
        ctx.save_for_backward(left, right, rows)
        return torch.maximum(rows[:, :, 0], rows[:, :, 1]).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        left, right, rows = ctx.saved_tensors
        n, h, w, c = left.shape
        to_rows = torch.stack(_shared_out(grad.permute(0, 2, 3, 1), rows[:, :, 0], rows[:, :, 1]), dim=2)
        to_pairs = torch.stack(_shared_out(to_rows.reshape(n, h, w, c), left, right), dim=3)
        return to_pairs.reshape(n, h, 2 * w, c).permute(0, 3, 1, 2)


def _shared_out(grad: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the maximum of two: to the first if it is not smaller, else to the second."""
    # ones and zeros in the same dtype: operations on booleans are several times slower
    to_first = grad * torch.ge(first, second, out=torch.empty_like(grad))
    return to_first, grad - to_first


class MaxPool2x2(nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` of 2×2 with stride 2, (N, C, H, W) → (N, C, H // 2, W // 2).

    PyTorch's kernel is vectorised over the channels of a pixel, which is slow if they are fewer than the CPU's vector
    width: LeNet's six took a fifth of its step. In that case, pairs of pixels, then of rows, are compared here. An
    infinite gradient becomes NaN within its window. The gradient can be taken once, and not by ``torch.func``.
    """

    few = 8
    """Fewer channels than this are few."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        if not trains_on_cpu(self, x) or x.dim() != 4:
            return super().forward(x)
        even = x.shape[2] % 2 == 0 == x.shape[3] % 2
        return _MaxPool2x2.apply(x) if even and x.shape[1] < self.few else super().forward(x)


def trains_on_cpu(layer: nn.Module, x: Tensor) -> bool:
    """Whether this is an uncompiled training step on a CPU; with values, which subclasses such as fake tensors lack."""
    return layer.training and type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()
