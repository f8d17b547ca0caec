"""torchvision's ImageNet weights in this project's networks, and linear probing on top of them."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from bench.models.layers import AUX_HEADS, SMALL_BELOW

IMAGENET = "IMAGENET1K_V1"
"""The first weights that torchvision offers: its own, or for GoogLeNet ported from TensorFlow."""

Weighted = nn.Conv2d | nn.BatchNorm2d | nn.Linear


def load_imagenet(model: nn.Module, twin: str) -> None:
    """Load the ImageNet weights of torchvision's network ``twin``, such as ``vgg16_bn``, into ``model``.

    They are downloaded once, into torch.hub's folder (``TORCH_HOME``). A last layer for another number of classes keeps
    its initial weights, and so do auxiliary heads, for which torchvision has no trained weights.

    Raises:
        ValueError: ``model`` differs from its twin in layers or shapes; raised before anything is downloaded.
        ConnectionError: the weights cannot be downloaded.
        RuntimeError: the weights file is damaged.
    """
    theirs = check_twin(model, twin)
    weights = _downloaded(torchvision.models.get_model_weights(twin)[IMAGENET])
    weights = {name: value for name, value in weights.items() if not name.startswith("aux")}
    theirs.load_state_dict(weights, assign=True)
    copy_weights(theirs, model)


def check_twin(model: nn.Module, twin: str) -> nn.Module:
    """torchvision's network ``twin``, on the meta device; ValueError if ``model`` differs in layers or shapes."""
    untrained = {"init_weights": False, "aux_logits": False} if twin == "googlenet" else {}
    with torch.device("meta"):
        theirs = torchvision.models.get_model(twin, **untrained)
    _pairs(theirs, model)
    return theirs


def _downloaded(weights: torchvision.models.WeightsEnum) -> dict[str, torch.Tensor]:
    """The state of torchvision's network, from the file if it exists; for errors see :func:`load_imagenet`."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(getattr(error, "reason", error)).partition("\n")[0] or type(error).__name__
        if file.exists():
            raise RuntimeError(f"{file}: {reason}; delete the file to download it again") from error
        # including a truncated download, which torch.hub detects by its hash
        raise ConnectionError(f"{weights.url}: {reason}; try again, or put the file into {file.parent}") from error


def imagenet_statistics(twin: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, three channels in [0, 255], with which ``twin`` was trained."""
    if twin == "googlenet":  # its weights come from TensorFlow; torchvision rescales its input inside the network
        mean = std = [0.5, 0.5, 0.5]
    else:
        transform = torchvision.models.get_model_weights(twin)[IMAGENET].transforms()
        mean, std = transform.mean, transform.std
    return [255 * value for value in mean], [255 * value for value in std]


def copy_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Copy all weights of a torchvision network into ours, which has its layers in the same order.

    torchvision's VGG has a bias before batch norm, which ours has not: it is absorbed into the running mean. A last
    layer with another number of outputs is unchanged, and so are auxiliary heads if torchvision's network has none.

    Raises:
        ValueError: the networks differ in a layer's type or shape.
    """
    bias: torch.Tensor | None = None
    for source, target in _pairs(theirs, ours):
        if source.weight.shape != target.weight.shape:
            continue
        state = source.state_dict()
        if isinstance(source, nn.BatchNorm2d) and bias is not None:
            state["running_mean"] = state["running_mean"] - bias
        bias = state.pop("bias") if source.bias is not None and target.bias is None else None
        target.load_state_dict(state)


def _pairs(theirs: nn.Module, ours: nn.Module) -> list[tuple[Weighted, Weighted]]:
    """The layers of both networks side by side; ValueError if they differ in more than a last layer's outputs.

    Our auxiliary heads are left out if torchvision's network has none; the reverse does not fit.
    """
    with_heads = any(name.startswith("aux") for name, _ in theirs.named_children())
    sources, targets = _weighted(theirs), _weighted(ours, with_heads)
    pairs = list(zip(sources.values(), targets.values(), strict=False))
    *_, end = targets
    last = [name == end or (_of_head(name) and name.endswith(".classifier")) for name in targets]
    if len(sources) != len(targets) or not all(map(_fits, *zip(*pairs, strict=True), last)):
        raise ValueError(
            f"pretrained weights do not fit {type(ours).__name__}: they are for images of 3 channels and "
            f"{SMALL_BELOW} or more pixels, and for model configurations that leave the layers as they are"
        )
    return pairs


def _fits(source: Weighted, target: Weighted, last: bool) -> bool:
    """Whether the weights of one fit the other; a last layer may have another number of outputs."""
    first = 1 if last else 0
    return isinstance(target, type(source)) and source.weight.shape[first:] == target.weight.shape[first:]


def _weighted(model: nn.Module, with_heads: bool = True) -> dict[str, Weighted]:
    """Layers with weights by name, in order; optionally without auxiliary heads."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Weighted) and (with_heads or not _of_head(name))
    }


def _of_head(name: str) -> bool:
    return name.startswith(f"{AUX_HEADS}.")


def freeze_backbone(model: nn.Module) -> None:
    """Train only the last linear layer: linear probing.

    The others get no gradients and stay in evaluation mode, with fixed batch norm statistics and no dropout; auxiliary
    heads, whose gradients would reach nothing, are removed.
    """
    setattr(model, AUX_HEADS, nn.ModuleDict())
    model.requires_grad_(False).eval()
    *_, last = _weighted(model).values()
    last.requires_grad_(True).train()
