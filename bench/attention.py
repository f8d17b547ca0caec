"""Where a network looks: occlusion, Grad-CAM, and feature maps projected back to the image; with captum."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam, Occlusion
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bench import inference
from bench.data.decode import fit
from bench.data.pipeline import center_crop
from bench.errors import ConfigError
from bench.saved import Saved

WINDOW, STEPS = 0.25, 4
"""Side of the occluding square, as a fraction of the image's; the square moves in steps of 1/STEPS of its side."""
STRONGEST = 4
"""Feature maps shown per resolution."""


@dataclass(frozen=True)
class Feature:
    """The ``activation`` (h, w) of a ``channel`` of ``layer``, and the ``projection`` (S, S, C) of its maximum."""

    layer: str
    channel: int
    activation: np.ndarray
    projection: np.ndarray


@dataclass(frozen=True)
class Attention:
    """An image (S, S, C) uint8; its true class (None if unknown), the predicted one, and its probability; maps (S, S)
    for the class ``asked``: ``occlusion``, in [-1, 1], and ``grad_cam``, not negative; ``features``.
    """

    image: np.ndarray
    true: str | None
    predicted: int
    probability: float
    asked: int
    occlusion: np.ndarray
    grad_cam: np.ndarray
    features: tuple[Feature, ...]


class _Deconvolved(torch.autograd.Function):
    """ReLU whose backward pass rectifies the gradient, wherever the input was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rectify: Callable[[Tensor], Tensor]) -> Tensor:
        return rectify(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad.clamp(min=0), None


class Rectifier(nn.Module):
    """``rectify``, ReLU or ReLU6; if it ``deconvolves``, backwards as in a deconvnet."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]):
        super().__init__()
        self.rectify, self.deconvolves = rectify, False

    def forward(self, x: Tensor) -> Tensor:
        return _Deconvolved.apply(x, self.rectify) if self.deconvolves else self.rectify(x)


class Logits(nn.Module):
    """A copy of a network that returns only its logits, works nowhere in place, and has a Rectifier for each ReLU."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        for name, layer in list(self.model.named_modules(remove_duplicate=False)):
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                self.model.set_submodule(name, Rectifier(F.relu6 if isinstance(layer, nn.ReLU6) else F.relu))
            elif getattr(layer, "inplace", False):
                layer.inplace = False

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, S, S) → (N, num_classes)."""
        return self.model(images).logits.float()

    @contextlib.contextmanager
    def deconvolving(self) -> Iterator[None]:
        """Gradients are those of a deconvnet."""
        rectifiers = [layer for layer in self.modules() if isinstance(layer, Rectifier)]
        for layer in rectifiers:
            layer.deconvolves = True
        try:
            yield
        finally:
            for layer in rectifiers:
                layer.deconvolves = False


def attend(saved: Saved, network: Logits, picture: Image.Image, asked: int | None, true: str | None) -> Attention:
    """What the ``saved`` network looks at in a picture, for the class ``asked``, None for the predicted one."""
    device = next(network.parameters()).device
    images = inference.look(saved, picture, 1).permute(0, 3, 1, 2).contiguous().to(device)
    with torch.no_grad():
        probabilities = network(images).softmax(dim=1)[0]
    predicted = int(probabilities.argmax())
    target = predicted if asked is None else asked
    stored = torch.from_numpy(fit(picture, saved.decode_size, saved.in_channels).copy())[None]
    return Attention(
        image=center_crop(stored, saved.image_size)[0].numpy(),
        true=true,
        predicted=predicted,
        probability=float(probabilities[predicted]),
        asked=target,
        occlusion=occlusion(network, images, target),
        grad_cam=grad_cam(network, images, target),
        features=features(network, images),
    )


def occlusion(network: nn.Module, images: Tensor, target: int) -> np.ndarray:
    """How much the probability of class ``target`` drops when a square of 0, the mean colour, covers a location.

    (1, C, S, S) → (S, S), the mean over the squares that cover a pixel. Zeiler, Fergus 2014, section 4.2.
    """
    channels, side = images.shape[1:3]
    window = max(2, round(WINDOW * side))
    step = max(1, window // STEPS)
    maps = Occlusion(lambda x: network(x).softmax(dim=1)).attribute(
        images, (channels, window, window), (channels, step, step), 0, target=target, perturbations_per_eval=32
    )
    return maps[0, 0].cpu().numpy()


def grad_cam(network: nn.Module, images: Tensor, target: int) -> np.ndarray:
    """Gradient-weighted class activation map, (1, C, S, S) → (S, S), of the last maps larger than 1×1.

    Selvaraju et al. 2017, equations 1 and 2; upsampled bilinearly.
    """
    layer = last_maps(network, images)
    images = images.clone().requires_grad_()
    cam = LayerGradCam(network, layer).attribute(images, target, relu_attributions=True)
    large = F.interpolate(cam, images.shape[-2:], mode="bilinear", align_corners=False)
    return large[0, 0].detach().cpu().numpy()


Call = tuple[str, nn.Module, Tensor]
"""Name, module and result (N, C, h, w) of a call."""


def outputs(network: nn.Module, images: Tensor) -> list[Call]:
    """The calls that return maps larger than 1×1, in the order in which they return."""
    found: list[Call] = []

    def note(name: str, layer: nn.Module, result: object) -> None:
        if isinstance(result, Tensor) and result.ndim == 4 and min(result.shape[-2:]) > 1:
            found.append((name, layer, result))

    handles = [
        layer.register_forward_hook(lambda layer, _, result, name=name: note(name, layer, result))
        for name, layer in network.named_modules()
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def last_maps(network: nn.Module, images: Tensor) -> nn.Module:
    """The last module to return maps larger than 1×1."""
    with torch.no_grad():
        if not (found := outputs(network, images)):
            raise ConfigError("the network has no feature maps larger than 1×1 to look at")
        return found[-1][1]


def features(network: Logits, images: Tensor) -> tuple[Feature, ...]:
    """The strongest maps after the last ReLU (or else convolution) of each resolution, first to last, and what their
    largest values come from: projected back to the image by a deconvnet, Zeiler, Fergus 2014, section 2.1. If a block
    joins that ReLU's maps with those of other branches, as GoogLeNet's do, they are all looked at.

    A deconvnet's unpooling and filtering are the gradients of pooling and convolution; it rectifies the backward signal
    in place of ReLU's gradient. Batch norm and local response normalisation, which the paper's network did not have
    after convolutions, use their gradients; so do other activations, and a network without ReLU shows plain gradients.
    """
    images = images.clone().requires_grad_()
    with network.deconvolving():
        calls = outputs(network, images)
    kinds = Rectifier if any(isinstance(layer, Rectifier) for _, layer, _ in calls) else nn.Conv2d
    last = {call[2].shape[-1]: call for call in calls if isinstance(call[1], kinds)}
    found = []
    for name, _, (maps,) in (_joined(call, calls) for call in last.values()):
        peaks = maps.flatten(1).max(dim=1)
        for channel in peaks.values.argsort(descending=True)[:STRONGEST].tolist():
            where = divmod(int(peaks.indices[channel]), maps.shape[-1])
            (back,) = torch.autograd.grad(maps[channel][where], images, retain_graph=True)
            activation, projection = maps[channel].detach().cpu().numpy(), back[0].permute(1, 2, 0).cpu().numpy()
            found.append(Feature(name.removeprefix("model."), channel, activation, projection))
    return tuple(found)


def _joined(call: Call, calls: Sequence[Call]) -> Call:
    """The call of the smallest module around a layer that returns the layer's maps among others, else the layer's."""
    name, _, maps = call
    strongest = maps[:, [int(maps.amax(dim=(0, 2, 3)).argmax())]]  # (1, 1, h, w)
    around = [
        (outer, module, result)
        for outer, module, result in calls
        if name.startswith(f"{outer}.")
        and result.shape[1] > maps.shape[1]
        and result.shape[2:] == maps.shape[2:]
        and (result == strongest).all(dim=3).all(dim=2).any()
    ]
    return max(around, key=lambda outer: len(outer[0]), default=call)


def first_filters(model: nn.Module) -> np.ndarray:
    """The weights of the first convolution: (n, k, k, C)."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None:
        raise ConfigError("the network has no convolution, and so no filters to look at")
    return first.weight.detach().permute(0, 2, 3, 1).cpu().numpy()
