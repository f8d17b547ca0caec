"""The layers of ``bench.models.kernels`` and ``winograd`` against PyTorch's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench.models.kernels import Dropout, LocalResponseNorm, MaxPool2x2
from bench.models.winograd import Conv2d


class Pair(NamedTuple):
    """A layer, PyTorch's of the same function, and the shape of what they are shown.

    ``float_on_cpu``: PyTorch's has no bf16 on CPUs and gets float32 there. ``dtypes``: those in which ours differs.
    """

    name: str
    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]
    float_on_cpu: bool = False
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


def convolution(c: int, k: int, kernel: int, side: int) -> Pair:
    """A convolution that keeps the size of the maps."""
    ours, theirs = (functools.partial(layer, c, k, kernel, padding=kernel // 2) for layer in (Conv2d, nn.Conv2d))
    return Pair(f"{kernel}×{kernel} convolution to {k}", ours, theirs, (128, c, side, side), dtypes=("float32",))


PAIRS = (
    Pair("LRN", lambda: LocalResponseNorm(64), lambda: nn.LocalResponseNorm(5), (128, 64, 32, 32), True),  # GoogLeNet's
    Pair("dropout", lambda: Dropout(0.5), lambda: nn.Dropout(0.5), (128, 96, 16, 16)),  # NiN's first
    Pair("max pooling", MaxPool2x2, lambda: nn.MaxPool2d(2), (128, 6, 28, 28)),  # LeNet's S2
    convolution(64, 64, 3, side=32),  # the second of VGG-13 and deeper ones
    convolution(256, 256, 3, side=8),  # VGG's third block
    convolution(96, 192, 5, side=16),  # NiN's second
)


def calls(pair: Pair, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], int]]:
    """Forward and backward of both on the same random images, channels last; a call returns how many those are."""
    x = torch.randn(pair.shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    ours, theirs = (make().to(device, memory_format=torch.channels_last) for make in (pair.ours, pair.theirs))  # type: ignore[call-overload]
    upstream = torch.randn_like(ours(x))
    convert = pair.float_on_cpu and device.type == "cpu"

    def run(layer: Callable[[Tensor], Tensor]) -> Callable[[], int]:
        def call() -> int:
            leaf = x.detach().requires_grad_()
            layer(leaf).backward(upstream)
            assert leaf.grad is not None
            leaf.grad[0, 0, 0, 0].item()  # a GPU has then finished
            return len(x)

        return call

    return {"ours": run(ours), "PyTorch": run((lambda leaf: theirs(leaf.float()).to(dtype)) if convert else theirs)}
