"""Convolutions with fewer multiplications, for training on CPUs in 32 bits.

Computed one by one, an m×m tile of the outputs of an r×r kernel takes m²r² multiplications a pair of channels. Here
both factors are transformed to values at n² points, n = m + r − 1, where the convolution is a product, which takes n²
(Winograd 1980, "Arithmetic complexity of computations"; Lavin, Gray 2016, "Fast algorithms for convolutional neural
networks", CVPR, section 4): at best a fifth for 3×3 kernels, a sixth for 5×5. For each point, the products of all tiles
and channels are one product of matrices.

As in Lavin and Gray, Bᵀ transforms the maps, G the kernels, and Aᵀ the products to outputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bench.models.kernels import trains_on_cpu

POINTS = {4: (0, 1, -1), 6: (0, 1, -1, 1 / 2, -2), 8: (0, 1, -1, 2, -2, 1 / 2, -1 / 2)}
"""The points of n, without the one at infinity: small numbers, and few of a size, for small rounding errors (Barabasz
et al. 2020, "Error analysis and improving the accuracy of Winograd convolution for deep neural networks")."""

WORTH = 95
"""With c inputs and k outputs, the time that products save is ∝ c·k, that of transforms ∝ c + k. From this ratio on,
multiplications saved to (c + k)·products, layers were faster than PyTorch's on two cores with AVX2."""

TILES = 64
"""In a batch of fewer, products are small, and transforming the kernels takes as long as they do."""

CHUNK = 2**20
"""Numbers per thread, of 16 at most, that are transformed at a time, to stay in caches; but one image at least."""


class Conv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d`: (N, C, H, W) → (N, K, H', W').

    In training on a CPU in 32 bits, uncompiled, 3×3 and 5×5 kernels that keep the size of the maps, with enough
    channels and images, take fewer multiplications, see above. Rounding errors are then up to 2e-5 of the largest
    value, against 3e-6 with PyTorch's convolution and 3e-3 in bf16; a value that is not finite makes all tiles that it
    touches NaN, up to four; the output is channels last, and cannot be differentiated twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        if trains_on_cpu(self, x) and x.dim() == 4 and self._is_faster(x):
            return _Convolution.apply(x, self.weight, self.bias, self.groups)
        return super().forward(x)

    def _is_faster(self, x: Tensor) -> bool:
        r = self.kernel_size[0]
        keeps_size = self.kernel_size in ((3, 3), (5, 5)) and self.padding in ((r // 2, r // 2), "same")
        plain = self.stride == self.dilation == (1, 1) and self.padding_mode == "zeros"
        in_32_bits = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (keeps_size and plain and in_32_bits):
            return False
        images, _, height, width = x.shape
        tiles = tiling(height, width, r)
        c, k = self.in_channels // self.groups, self.out_channels // self.groups
        saved = c * k * (r**2 * height * width - tiles.products)
        return saved >= WORTH * (c + k) * tiles.products and images * tiles.rows * tiles.columns >= TILES


def as_pytorchs(net: nn.Module) -> nn.Module:
    """The network, changed so that PyTorch computes all its convolutions."""
    for layer in net.modules():
        if isinstance(layer, Conv2d):
            layer.__class__ = nn.Conv2d  # type: ignore[assignment]  # which differs in nothing but its forward
    return net


class Tiling(NamedTuple):
    """How maps are cut: ``m``×``m`` outputs a tile, ``rows`` × ``columns`` tiles a map, ``n``² points."""

    m: int
    r: int
    rows: int
    columns: int

    @property
    def n(self) -> int:
        return self.m + self.r - 1

    @property
    def products(self) -> int:
        """Multiplications a pair of channels."""
        return self.n**2 * self.rows * self.columns


def tiling(height: int, width: int, r: int) -> Tiling:
    """That with the fewest multiplications."""
    every = [Tiling(n + 1 - r, r, -(-height // (n + 1 - r)), -(-width // (n + 1 - r))) for n in POINTS if n > r]
    return min(every, key=lambda tiles: tiles.products)


@cache
def transforms(m: int, r: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Bᵀ: (n, n), G: (n, r), Aᵀ: (m, n).

    The values of polynomials at points give the coefficients of their product by the inverse of Vandermonde's matrix;
    a correlation is the transposed product.
    """
    n = m + r - 1

    def values(coefficients: int) -> Tensor:
        powers = [[point**i for i in range(coefficients)] for point in POINTS[n]]
        return torch.tensor([*powers, [0] * (coefficients - 1) + [1]], dtype=torch.float64, device="cpu")

    bt, g, at = torch.linalg.inv(values(n)).T, values(r), values(m).T
    return bt.to(dtype), g.to(dtype), at.to(dtype)


def both_ways(transform: Tensor, x: Tensor) -> Tensor:
    """(i, j) along rows and columns, the first two dimensions of (j, j, …) → (i, i, rest)."""
    i, j = transform.shape
    return torch.matmul(transform, (transform @ x.reshape(j, -1)).view(i, j, -1))


class _Product:
    """Correlations of maps (N, H, W, C) with kernels in ``groups``, a chunk of images at a time."""

    def __init__(self, tiles: Tiling, groups: int, dtype: torch.dtype):
        self.tiles, self.groups = tiles, groups
        self.bt, self.g, self.at = transforms(tiles.m, tiles.r, dtype)

    def chunks(self, images: int, channels: int) -> list[slice]:
        numbers = CHUNK * min(torch.get_num_threads(), 16)
        step = max(1, numbers // (self.tiles.products * channels))
        return [slice(i, i + step) for i in range(0, images, step)]

    def of_maps(self, x: Tensor) -> Tensor:
        """(N, H, W, C) → (n²·groups, N·tiles, C / groups): overlapping tiles of the maps padded by r // 2."""
        (m, r, rows, columns), n = self.tiles, self.tiles.n
        count, height, width, channels = x.shape
        before = r // 2
        x = F.pad(x, (0, 0, before, m * columns + r - 1 - before - width, before, m * rows + r - 1 - before - height))
        per, (image, row, column, channel) = channels // self.groups, x.stride()
        shape = (n, n, self.groups, count, rows, columns, per)
        cut = x.as_strided(shape, (row, column, per * channel, image, m * row, m * column, channel))
        return both_ways(self.bt, cut).view(n * n * self.groups, -1, per)

    def of_kernels(self, weight: Tensor) -> Tensor:
        """(K, C / groups, r, r) → (n²·groups, C / groups, K / groups)."""
        k, c, r, _ = weight.shape
        by_place = weight.view(self.groups, k // self.groups, c, r, r).permute(3, 4, 0, 2, 1)
        return both_ways(self.g, by_place).view(-1, c, k // self.groups)

    def correlate(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """(N, H, W, C) and (K, C / groups, r, r) → (N, K, H, W), channels last."""
        (m, _, rows, columns), n = self.tiles, self.tiles.n
        count, height, width, c = x.shape
        k = len(weight)
        kernels = self.of_kernels(weight)
        y = torch.empty(count, k, height, width, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for some in self.chunks(count, max(c, k)):
            values = both_ways(self.at, torch.bmm(self.of_maps(x[some]), kernels).view(n, n, -1))
            cut = values.view(m, m, self.groups, -1, rows, columns, k // self.groups)
            maps = cut.permute(3, 4, 0, 5, 1, 2, 6).reshape(-1, m * rows, m * columns, k)[:, :height, :width]
            y[some] = (maps if bias is None else maps + bias).permute(0, 3, 1, 2)
        return y

    def gradient_of_kernels(self, x: Tensor, grad: Tensor) -> Tensor:
        """(N, H, W, C) and the gradient of the outputs (N, H, W, K) → (K, C / groups, r, r)."""
        (m, r, rows, columns), n, groups = self.tiles, self.tiles.n, self.groups
        count, height, width, k = grad.shape
        c = x.shape[-1]
        total = x.new_zeros(n * n * groups, c // groups, k // groups)
        for some in self.chunks(count, max(c, k)):
            g = F.pad(grad[some], (0, 0, 0, m * columns - width, 0, m * rows - height))
            cut = g.view(-1, rows, m, columns, m, groups, k // groups).permute(2, 4, 5, 0, 1, 3, 6)
            values = both_ways(self.at.T, cut).view(n * n * groups, -1, k // groups)
            total.baddbmm_(self.of_maps(x[some]).transpose(1, 2), values)
        by_place = both_ways(self.g.T, total.view(n, n, -1)).view(r, r, groups, c // groups, k // groups)
        return by_place.permute(2, 4, 3, 0, 1).reshape(k, c // groups, r, r)


class _Convolution(torch.autograd.Function):
    """Stride 1, padded to the same size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups, (height, width), r = groups, x.shape[2:], weight.shape[-1]
        ctx.product = _Product(tiling(height, width, r), groups, x.dtype)
        return ctx.product.correlate(_last(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        k, c, r, _ = weight.shape
        grad, of_x, of_weight = _last(grad), None, None
        if wants_x:  # correlated with the kernels turned by 180°, from outputs to inputs
            turned = weight.flip(2, 3).view(ctx.groups, k // ctx.groups, c, r, r).transpose(1, 2)
            of_x = ctx.product.correlate(grad, turned.reshape(ctx.groups * c, -1, r, r))
        if wants_weight:
            of_weight = ctx.product.gradient_of_kernels(_last(x), grad)
        return of_x, of_weight, grad.sum(dim=(0, 1, 2)) if wants_bias else None, None


def _last(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C), contiguous."""
    return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
