"""The cost of a network: parameters and multiply-accumulates, in total and layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.models.kernels import LocalResponseNorm
from bench.models.layers import AUX_HEADS, FitTo, GlobalAveragePool

T = TypeVar("T")
KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Conv2d,),
    "linear": (nn.Linear,),
    "max pool": (nn.MaxPool2d,),
    "average pool": (nn.AvgPool2d, nn.AdaptiveAvgPool2d, FitTo, GlobalAveragePool),
    "batch norm": (nn.BatchNorm2d,),
    "LRN": (LocalResponseNorm, nn.LocalResponseNorm),
}
"""The papers' names for layer classes."""


class Layer(NamedTuple):
    """One call of a layer on one image.

    ``name``: its place in the network, ``stem.0``. ``kind``: one of ``KINDS``, or its class. ``kernel``, ``stride``:
    one number per side, empty if there is none; the kernel of local response normalisation is its channel window.
    ``output``: (C, H, W) or (C,), empty if it is not called in evaluation. ``params``: counted at the first call.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    output: tuple[int, ...]
    params: int
    macs: int


def parameters(model: nn.Module) -> int:
    """Parameters of the network as evaluated, without auxiliary heads."""
    return sum(_counted(model).values())


def _counted(model: nn.Module) -> dict[str, int]:
    """The size of each parameter tensor of the network as evaluated; shared ones are counted once."""
    heads = f"{AUX_HEADS}."
    return {name: p.numel() for name, p in model.named_parameters() if not name.startswith(heads)}


def macs(model: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-accumulates of one image's forward pass in evaluation: those of convolutions and linear layers.

    Half of what PyTorch's counter calls flops. Local response normalisation does not count, as in the literature,
    though here its window sum happens to be a convolution.
    """
    return sum(layer.macs for layer in layers(model, in_channels, image_size))


def layers(model: nn.Module, in_channels: int, image_size: int) -> list[Layer]:
    """The layers in the order of their calls in evaluation; they add up to ``parameters`` and ``macs``.

    Included are layers without children that have parameters, multiply-accumulates or a kernel, or change the number of
    elements; layers with children, and layers that are not called, only if the sums would miss them.
    """
    return dry_run(model, lambda device: _layers(model, in_channels, image_size, device))


def dry_run(model: nn.Module, run: Callable[[str], T]) -> T:
    """``run`` on the meta device, without memory and arithmetic; on the CPU if the network fails there, perhaps as it
    reads values.
    """
    try:
        return run("meta")
    except Exception:  # of anyone's network
        if any(parameter.is_meta for parameter in model.parameters()):
            raise
        return run("cpu")


def unallocated(make: Callable[[], nn.Module], use: Callable[[nn.Module], T]) -> T:
    """``use`` of a network made on the meta device; if that fails, of one made on the CPU, as it may read values."""
    try:
        with torch.device("meta"):
            model = make()
        return use(model)
    except Exception:  # of anyone's network
        return use(make())


def _layers(model: nn.Module, in_channels: int, image_size: int, device: str) -> list[Layer]:
    pending = _counted(model)  # by name: moving a model to the meta device unties shared parameters
    model = copy.deepcopy(model).to(device).eval()
    counter = FlopCounterMode(display=False)
    found: list[Layer] = []
    unclaimed: list[int] = []  # flops not assigned to a layer, at the start of each active call
    claimed = 0

    def own_parameters(name: str, layer: nn.Module) -> int:
        prefix = f"{name}." if name else ""
        return sum(pending.pop(prefix + own, 0) for own, _ in layer.named_parameters(recurse=False))

    def enter(layer: nn.Module, inputs: Any) -> None:
        unclaimed.append(counter.get_total_flops() - claimed)

    def leave(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal claimed
        flops = counter.get_total_flops() - claimed - unclaimed.pop()
        claimed += flops
        params, macs = own_parameters(name, layer), 0 if _kind(layer) == "LRN" else flops // 2
        if params or macs or _kernel(layer) or (_resizes(inputs, output) and not any(layer.children())):
            found.append(_row(name, layer, _shape(layer, output), params, macs))

    for name, layer in model.named_modules():
        layer.register_forward_pre_hook(enter)
        layer.register_forward_hook(lambda *call, name=name: leave(name, *call))
    with counter, torch.no_grad():
        model(torch.zeros(1, in_channels, image_size, image_size, device=device))
    idle = [(name, layer, own_parameters(name, layer)) for name, layer in model.named_modules()]
    return found + [_row(name, layer, (), params, 0) for name, layer, params in idle if params]


def _row(name: str, layer: Any, output: tuple[int, ...], params: int, macs: int) -> Layer:
    name = name or type(layer).__name__
    return Layer(name, _kind(layer), _kernel(layer), _sides(layer, "stride"), output, params, macs)


def _kernel(layer: Any) -> tuple[int, ...]:
    return (layer.size,) if _kind(layer) == "LRN" else _sides(layer, "kernel_size")


def _kind(layer: nn.Module) -> str:
    return next((kind for kind, types in KINDS.items() if isinstance(layer, types)), type(layer).__name__)


def _sides(layer: nn.Module, attribute: str) -> tuple[int, ...]:
    """A pair even if the layer has one number for both sides."""
    value = getattr(layer, attribute, None) or ()
    return (value, value) if isinstance(value, int) else tuple(value)


def _resizes(inputs: Any, output: Any) -> bool:
    """Whether the number of elements changes; flattening and the like do not count."""
    both = (*inputs[:1], output)
    return all(isinstance(x, Tensor) for x in both) and len({x.numel() for x in both}) > 1


def _shape(layer: nn.Module, output: Any) -> tuple[int, ...]:
    """Of one image, channels first."""
    while isinstance(output, tuple):  # an Output, attention with its weights
        output = output[0]
    if not isinstance(output, Tensor):
        return ()
    shape = tuple(output.shape[1:])
    return (shape[-1], *shape[:-1]) if isinstance(layer, nn.Linear) else shape
