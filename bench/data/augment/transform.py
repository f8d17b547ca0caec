"""What an augmentation is.

It draws its parameters for all samples of an epoch at once, and is then applied to batches with the rows that belong
to the batch. So the augmented pixels depend on (seed, epoch, sample) alone: not on the batch size, on the number of
devices, nor on where a run was resumed.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Stage(enum.IntEnum):
    """Where in the pipeline a transform stands; those of one stage keep the order of the configuration."""

    GEOMETRY = 0
    """Moves pixels about: uint8 or float32, any side → the side it is configured for."""
    COLOR = 1
    """Changes pixel values in [0, 255]: uint8 or float32 → float32."""
    ERASE = 2
    """Changes normalised images, in which 0 is the mean: float32 → float32."""


class Draws(NamedTuple):
    """What random parameters are drawn from: ``n`` samples of ``epoch`` (counted from 0); a ``generator`` made from
    (seed, epoch), and one from the seed alone, the same in each epoch, ``lasting``. Both are on the CPU.
    """

    n: int
    epoch: int
    generator: torch.Generator
    lasting: torch.Generator


class Transform(ABC):
    """One augmentation of images (B, S, S, C), which it never changes in place."""

    stage: ClassVar[Stage]

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:  # noqa: B027 - most have nothing to learn
        """Learn what is needed from the training images ``pixels[index]``, (N, S, S, C) uint8."""

    @abstractmethod
    def draw(self, draws: Draws) -> Tensor:
        """Random parameters of the samples, (n, k), on the CPU."""

    @abstractmethod
    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The images (B, S, S, C), on any device, each changed by its row of ``parameters`` (B, k)."""


class Mix(ABC):
    """Joins each sample of a batch with another of the epoch, its partner, at the end of the pipeline.

    Partners are drawn from the whole epoch rather than from the batch, so that they too depend on (seed, epoch,
    sample) alone; a partner is augmented as it is in its own place.
    """

    @abstractmethod
    def draw(self, draws: Draws) -> Tensor:
        """Random parameters, (n, k) float64 on the CPU; the first column is the partner, in [0, n)."""

    @abstractmethod
    def __call__(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, S, S, C) → the joined images and the share of the first in each, (B,) in [0, 1]."""


def check_probability(name: str, value: float) -> None:
    """Raises ValueError where ``value`` is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: a probability lies in [0, 1]")


def uniform(draws: Draws, low: Tensor | float, high: Tensor | float, columns: int = 1) -> Tensor:
    """(n, columns) float64, uniform in [low, high)."""
    return low + (high - low) * torch.rand(draws.n, columns, generator=draws.generator, dtype=torch.float64)


def beside(values: Tensor, images: Tensor) -> Tensor:
    """``values`` on the device of ``images``; on a GPU the queue of its work is not waited for."""
    return values.to(images.device, non_blocking=images.is_cuda)
