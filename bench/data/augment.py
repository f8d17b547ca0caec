"""Augmentations of whole batches, with one set of random parameters a sample and epoch.

A transform draws its parameters for all samples of an epoch at once, and is then applied to batches with the rows
that belong to the batch. So the augmented pixels depend on (seed, epoch, sample) alone: not on the batch size,
nor on the order, nor on where a run was resumed.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor


class Transform(Protocol):
    """One augmentation of uint8 images (B, S, S, C)."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Random parameters of ``n`` samples, (n, k)."""

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The images, (B, S, S, C) → (B, S, S, C), each changed by its row of ``parameters`` (B, k)."""


class RandomCrop:
    """Pad by ``padding`` pixels on each side and crop back at a random place.

    ``mode``: ``zero`` pads with 0 (black), ``reflect`` with the mirrored image, its edge not repeated; the padding
    modes ``constant`` and ``reflect`` of :class:`torchvision.transforms.RandomCrop`.

    Raises:
        ValueError: ``padding`` is negative, or, when called, too large to reflect; or ``mode`` is another.
    """

    def __init__(self, padding: int = 4, mode: Literal["zero", "reflect"] = "reflect"):
        if padding < 0:
            raise ValueError(f"padding={padding}: must be 0 or more")
        if mode not in ("zero", "reflect"):
            raise ValueError(f"mode={mode}: choose one of zero, reflect")
        self.padding, self.mode = padding, mode

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Offsets of the crop in the padded image, (n, 2): row and column, each in [0, 2·padding]."""
        return torch.randint(0, 2 * self.padding + 1, (n, 2), generator=generator)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S, S, C)."""
        side = images.shape[1]
        if self.mode == "reflect" and self.padding >= side:
            raise ValueError(f"padding={self.padding}: reflecting {side}×{side} images allows at most {side - 1}")
        place = torch.arange(side) - self.padding
        rows, cols = parameters[:, :1] + place, parameters[:, 1:] + place  # (B, S) each, outside [0, S) in the padding
        cropped = images[
            torch.arange(len(images))[:, None, None], _fold(rows, side)[:, :, None], _fold(cols, side)[:, None]
        ]
        if self.mode == "zero":
            inside = ((rows >= 0) & (rows < side))[:, :, None] & ((cols >= 0) & (cols < side))[:, None]
            cropped *= inside[..., None]
        return cropped


def _fold(index: Tensor, side: int) -> Tensor:
    """Indices beyond either edge of [0, side) mirrored back at it, for up to side - 1 steps beyond."""
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


class HorizontalFlip:
    """Mirror left and right with probability ``p``."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}: a probability lies in [0, 1]")
        self.p = p

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Whether to flip, (n, 1) bool."""
        return torch.rand(n, 1, generator=generator) < self.p

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S, S, C)."""
        return torch.where(parameters[:, :, None, None], images.flip(2), images)
