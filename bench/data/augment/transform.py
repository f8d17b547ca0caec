"""The interface of augmentations.

An augmentation draws its parameters for all samples of an epoch at once and is then applied to each batch with its
rows. Augmented pixels thus depend on (seed, epoch, sample) alone: not on the batch size, the number of devices, or
where a run was resumed.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Stage(enum.IntEnum):
    """A transform's place in the pipeline; transforms of the same stage keep the order of the configuration."""

    GEOMETRY = 0
    """Moves pixels: uint8 or float32, any side → the configured side."""
    COLOR = 1
    """Changes pixel values in [0, 255]: uint8 or float32 → float32."""
    ERASE = 2
    """Changes normalised images, in which 0 is the mean: float32 → float32."""


class Draws(NamedTuple):
    """What random parameters are drawn from: ``n`` samples of ``epoch`` (counted from 0); a ``generator`` seeded with
    (seed, epoch), and ``lasting``, seeded with the seed alone, the same in each epoch. Both are on the CPU.
    """

    n: int
    epoch: int
    generator: torch.Generator
    lasting: torch.Generator


class Transform(ABC):
    """An augmentation of images (B, S, S, C), which are never changed in place."""

    stage: ClassVar[Stage]

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:  # noqa: B027 - most have nothing to fit
        """Fit to the training images ``pixels[index]``, (N, S, S, C) uint8."""

    @abstractmethod
    def draw(self, draws: Draws) -> Tensor:
        """Random parameters of the samples, (n, k), on the CPU."""

    @abstractmethod
    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The images (B, S, S, C), on any device, each changed by its row of ``parameters`` (B, k)."""


class Mix(ABC):
    """Mixes each sample of a batch with another one of the epoch, its partner, at the end of the pipeline.

    Partners are drawn from the whole epoch rather than the batch, so that they too depend on (seed, epoch, sample)
    alone; a partner is augmented exactly as in its own batch.
    """

    @abstractmethod
    def draw(self, draws: Draws) -> Tensor:
        """Random parameters, (n, k) float64 on the CPU; the first column is the partner, in [0, n)."""

    @abstractmethod
    def __call__(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, S, S, C) → the mixed images and the share of the first in each, (B,) in [0, 1]."""


def uniform(draws: Draws, low: Tensor | float, high: Tensor | float, columns: int = 1) -> Tensor:
    """(n, columns) float64, uniform in [low, high)."""
    return low + (high - low) * torch.rand(draws.n, columns, generator=draws.generator, dtype=torch.float64)


def beside(values: Tensor, images: Tensor) -> Tensor:
    """``values`` on the device of ``images``, without synchronising a GPU."""
    return values.to(images.device, non_blocking=images.is_cuda)
