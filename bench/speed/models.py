"""Our networks, forward and backward, against torchvision's of the same weights, and our layers against PyTorch's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from bench import console, machine
from bench.models import Output
from bench.models.alexnet import AlexNet
from bench.models.googlenet import GoogLeNet
from bench.models.kernels import LocalResponseNorm
from bench.models.pretrained import copy_weights
from bench.models.vgg import VGG
from bench.speed.kernels import PAIRS, calls
from bench.speed.timing import interleaved, publish

ROUNDS = 31
CLASSES = 1000
AUX_WEIGHT = 0.3

Rates = dict[str, list[float]]
"""Images/s of each contestant in each round."""


class Twins(NamedTuple):
    """A network of torchvision, ours of the same layers, both without dropout, and what they are shown.

    Of whatever size the images are, ours is in the paper's geometry, the only one that torchvision has.
    """

    name: str
    ours: Callable[[], nn.Module]
    theirs: Callable[[], nn.Module]
    images: tuple[tuple[int, int], ...]
    """Sizes of images and of batches."""


TWINS = (
    Twins(
        "alexnet",
        lambda: AlexNet(image_size=224, towers=1, dropout=0.0),
        lambda: torchvision.models.alexnet(dropout=0.0),
        ((224, 64), (64, 256)),  # at 32 torchvision's poolings leave nothing
    ),
    Twins(
        "vgg16",
        lambda: VGG(16, dropout=0.0),
        lambda: torchvision.models.vgg16(dropout=0.0),
        ((224, 4), (32, 128)),
    ),
    Twins(
        "vgg16_bn",
        lambda: VGG(16, batch_norm=True, dropout=0.0),
        lambda: torchvision.models.vgg16_bn(dropout=0.0),
        ((224, 4), (32, 128)),
    ),
    Twins(
        "googlenet",
        lambda: GoogLeNet(batch_norm=True, torchvision=True, dropout=0.0, aux_dropout=0.0),
        lambda: torchvision.models.googlenet(init_weights=False, dropout=0.0, dropout_aux=0.0),
        ((224, 16), (32, 128)),
    ),
)

GOOGLENET_IMAGES = ((224, 16), (32, 64))


def measure(resolved: Mapping[str, Any]) -> None:
    """Measure, print and write; see the command's help."""
    machine.prepare_cpu()
    device = machine.device(resolved["trainer"]["accelerator"])
    wanted = machine.precision(resolved["trainer"]["precision"], device)
    dtype = torch.bfloat16 if wanted == "bf16-mixed" else torch.float32
    torch.manual_seed(0)
    steps, layers, shares = {}, {}, {}
    for pair in TWINS:
        for size, batch in pair.images:
            console.say(f"{pair.name}, {size}×{size}")
            steps[pair.name, f"{batch} of {size}×{size}"] = rounds(twins(pair), size, batch, device, dtype)
    for layer in PAIRS:
        for name in layer.dtypes:
            console.say(f"{layer.name}, {name}")
            rates = interleaved(calls(layer, getattr(torch, name), device), ROUNDS)
            layers[f"{layer.name}, {name}", "×".join(map(str, layer.shape))] = rates
    for size, batch in GOOGLENET_IMAGES:
        console.say(f"as published, {size}×{size}, with and without LRN")
        nets = with_and_without_norm(size)
        shares["as published", f"{batch} of {size}×{size}"] = rounds(nets, size, batch, device, dtype)
    precision = str(dtype).removeprefix("torch.")
    publish(
        resolved,
        "models",
        [
            table(f"Forward and backward, {precision}, images/s", steps, "ratio", "{:.3f}"),
            table("Layers, forward and backward, images/s", layers, "× faster", "{:.1f}"),
            table(f"GoogLeNet with and without LRN, {precision}, images/s", shares, "share", "{:.1%}"),
        ],
        {
            "images_per_s": [
                {"network": name, "images": images, **each}
                for measured in (steps, layers, shares)
                for (name, images), each in measured.items()
            ]
        },
    )  # fmt: skip


def table(
    title: str, measured: Mapping[tuple[str, str], Rates], compared: str, form: str
) -> tuple[str, list[str], list[list[str]]]:
    """Medians of two contestants; median and quartiles of how the first compares with the second round by round."""
    rows = []
    for (name, images), rates in measured.items():
        medians = [f"{statistics.median(each):,.1f}" for each in rates.values()]
        quartiles = ratios(*rates.values())
        if compared == "share":  # of the time
            quartiles = [1 - ratio for ratio in reversed(quartiles)]
        low, middle, high = map(form.format, quartiles)
        rows.append([name, images, *medians, middle, f"{low} – {high}"])
    return title, ["", "images", *next(iter(measured.values())), compared, "quartiles"], rows


def ratios(one: list[float], other: list[float]) -> list[float]:
    """Quartiles, the median in the middle, of one's rate over the other's in the same round."""
    return statistics.quantiles([a / b for a, b in zip(one, other, strict=True)], n=4, method="inclusive")


def rounds(nets: Mapping[str, nn.Module], size: int, batch: int, device: torch.device, dtype: torch.dtype) -> Rates:
    """Images/s of each network, forward and backward, on the same random images, channels last."""
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)
    for net in nets.values():
        net.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    return interleaved({name: step(net, images, labels, dtype) for name, net in nets.items()}, ROUNDS)


def twins(pair: Twins) -> dict[str, nn.Module]:
    """Both networks, of the same weights."""
    nets = {"ours": pair.ours(), "torchvision": pair.theirs()}
    copy_weights(nets["torchvision"], nets["ours"])
    return nets


def with_and_without_norm(size: int) -> dict[str, nn.Module]:
    """GoogLeNet as published, and without local response normalisation."""
    nets: dict[str, nn.Module] = {name: GoogLeNet(CLASSES, image_size=size) for name in ("with", "without")}
    for name, layer in list(nets["without"].named_modules()):
        if isinstance(layer, LocalResponseNorm):
            nets["without"].set_submodule(name, nn.Identity())
    return nets


def step(net: nn.Module, images: Tensor, labels: Tensor, dtype: torch.dtype) -> Callable[[], int]:
    """Forward, loss with auxiliary heads, backward."""

    def call() -> int:
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            output = net(images)
            logits, aux = everything(output)
            loss = F.cross_entropy(logits, labels)
            for head in aux:
                loss = loss + AUX_WEIGHT * F.cross_entropy(head, labels)
        loss.backward()
        net.zero_grad()
        loss.item()  # a GPU has then finished
        return len(images)

    return call


def everything(output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Logits and auxiliary logits of our networks and of torchvision's."""
    if isinstance(output, Output):
        return output.logits, output.aux
    return (output, ()) if isinstance(output, Tensor) else (output[0], tuple(output[1:]))
