"""Augmentations that erase a part of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.data.augment.transform import Draws, Stage, Transform, beside, uniform
from bench.rules import check_argument, whole


class Cutout(Transform):
    """Set a square of ``length``×``length`` pixels around a random pixel to the mean; it may extend beyond the image.

    DeVries, Taylor, "Improved regularization of convolutional neural networks with cutout", 2017, section 3.2; 16
    pixels for CIFAR-10, 8 for CIFAR-100. After normalisation the mean is 0.

    Raises:
        ValueError: ``length`` is not a whole number of 1 or more.
    """

    stage = Stage.ERASE

    def __init__(self, length: int = 16):
        check_argument("length", length, whole(1))
        self.length = length

    def draw(self, draws: Draws) -> Tensor:
        """The centre, (n, 2) in [0, 1): row and column as fractions of the side."""
        return uniform(draws, 0, 1, columns=2)

    def boxes(self, side: int, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """First and one-past-last row and column inside the image, (B, 2) int64 each."""
        first = (parameters * side).long() - self.length // 2
        return first.clamp(min=0), (first + self.length).clamp(max=side)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S, S, C)."""
        first, last = self.boxes(images.shape[1], parameters)
        return images.masked_fill(beside(inside(images.shape[1], first, last), images), 0)


def inside(side: int, first: Tensor, last: Tensor) -> Tensor:
    """Which pixels are in the boxes from ``first`` to ``last`` (exclusive), (B, 2) each → (B, S, S, 1) bool."""
    place = torch.arange(side)
    rows, cols = ((place >= first[:, axis, None]) & (place < last[:, axis, None]) for axis in (0, 1))  # (B, S) each
    return (rows[:, :, None] & cols[:, None, :])[..., None]
