"""What a network costs: parameters and multiply-accumulates."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.models.layers import AUX_HEADS, LocalResponseNorm


def parameters(model: nn.Module) -> int:
    """Parameters of the network as evaluated, without auxiliary heads."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(f"{AUX_HEADS}."))


def macs(model: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-accumulates of one image's forward pass in evaluation: those of convolutions and linear layers.

    Half of what PyTorch's counter calls flops. Local response normalisation does not count, as in the literature,
    though here its window sum happens to be a convolution.
    """
    model = copy.deepcopy(model).to("meta").eval()
    norms = {name for name, layer in model.named_modules() if isinstance(layer, LocalResponseNorm)}
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, in_channels, image_size, image_size, device="meta"))
    counts = counter.get_flop_counts()
    root = type(model).__name__
    uncounted = sum(sum(counts.get(f"{root}.{name}".rstrip("."), {}).values()) for name in norms)
    return (counter.get_total_flops() - uncounted) // 2
