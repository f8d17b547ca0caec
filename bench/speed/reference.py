"""The reference stack: what one would write without this project, as tutorials and templates do.

A plain LightningModule in 32 bits, channels first, with torchmetrics updated each step; images opened by PIL one at a
time, torchvision's transforms, a ``DataLoader``; the optimizer as PyTorch makes it by default.
"""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from bench import machine
from bench.models import Output
from bench.models.kernels import Dropout, LocalResponseNorm, MaxPool2x2
from bench.models.winograd import as_pytorchs

WORKERS = (0, 1, 2, 4, 8, 16)
"""Numbers of processes of a DataLoader that are tried, up to the number of cores."""


def workers() -> list[int]:
    """The WORKERS that have a core each, within the quota of CPUs."""
    return [n for n in WORKERS if n <= min(machine.hardware()["cores"], machine.cpu_quota() or math.inf)]


class PILImages(Dataset):
    """Images in memory as torchvision's CIFAR10 has them, transformed one at a time."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: Any):
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), int(self.labels[i])


def loader(pixels: np.ndarray, labels: np.ndarray, batch_size: int, workers: int) -> DataLoader:
    """Batches of (n, S, S, 3) uint8 images, cropped out of a padding of 4 pixels, mirrored, normalised."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(pixels.shape[1], padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ]
    )
    images = PILImages(pixels, labels, transform)
    return DataLoader(images, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


class Plain(L.LightningModule):
    """A network, cross entropy, top-1 and top-5."""

    def __init__(self, net: nn.Module, num_classes: int, lr: float, aux_weight: float):
        super().__init__()
        self.net, self.lr, self.aux_weight = plain(net), lr, aux_weight
        self.top1 = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        output: Output = self.net(images)
        loss = F.cross_entropy(output.logits, labels)
        for head in output.aux:
            loss = loss + self.aux_weight * F.cross_entropy(head, labels)
        self.top1(output.logits, labels)
        self.top5(output.logits, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/top1", self.top1, on_step=False, on_epoch=True)
        self.log("train/top5", self.top5, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def plain(net: nn.Module) -> nn.Module:
    """The network with PyTorch's own layers in place of those of ``bench.models.kernels`` and ``winograd``."""
    for name, layer in list(net.named_modules()):
        if isinstance(layer, LocalResponseNorm):
            own: nn.Module = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
        elif isinstance(layer, Dropout):
            own = nn.Dropout(layer.p)
        elif isinstance(layer, MaxPool2x2):
            own = nn.MaxPool2d(2)
        else:
            continue
        net.set_submodule(name, own.train(layer.training))
    return as_pytorchs(net)
