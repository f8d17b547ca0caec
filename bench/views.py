"""Test-time augmentation: the crops of an image over which a network's predictions are averaged."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional as F

CROPS = (1, 2, 5, 10, 144)
"""The possible numbers of views per image."""

SCALES = (256, 288, 320, 352)
"""Shorter sides for a network of 224 pixels: GoogLeNet's test uses all four, AlexNet's the first."""

NETWORK = 224
"""The image side that ``SCALES`` refer to; they scale with it."""


def views(images: Tensor, size: int, crops: int) -> Iterator[Tensor]:
    """The ``crops`` views of each image, to be weighted equally: (B, H, W, C) → (B, size, size, C) float32 each.

    Values keep their range; resized ones are interpolated bilinearly, with antialiasing.

    1: the shorter side scaled to ``size``, the centre square; an image of that size is unchanged.
    5: the shorter side scaled to 256/224 of ``size``, of the centre square the four corners and the centre (Krizhevsky
    et al. 2012, section 4.1).
    144, of which a half is mirrored: the shorter side scaled to 256/224, 288/224, 320/224 and 352/224 of ``size``; of
    the left, centre and right square (top, centre and bottom of a portrait) the four corners, the centre, and the
    whole scaled to ``size`` (Szegedy et al. 2015, section 7). Of a square image the three squares are one, which is
    taken once: 48 views, whose average is that of the 144.
    2 and 10: those of 1 and 5, and the same mirrored.

    Raises:
        ValueError: ``crops`` is not in ``CROPS``.
    """
    if crops not in CROPS:
        raise ValueError(f"crops={crops}: must be one of {', '.join(map(str, CROPS))}")
    if crops <= 2:
        upright = iter([square(images, size)])
    elif crops <= 10:
        upright = corners(square(images, sides(size)[0]), size)
    else:
        upright = of_googlenet(images, size)
    for view in upright:
        yield view
        if crops % 2 == 0:
            yield view.flip(2)


def of_googlenet(images: Tensor, size: int) -> Iterator[Tensor]:
    """The 72 unmirrored views of GoogLeNet's test; 24 for square images."""
    alone = images.shape[1] == images.shape[2]  # decided by the image, not by how a scale rounds its sides
    for side in sides(size):
        whole = scaled(images, side)
        for top, left in [(0, 0)] if alone else squares(*whole.shape[1:3]):
            part = whole[:, top : top + side, left : left + side]
            yield from corners(part, size)
            yield scaled(part, size)


def corners(images: Tensor, size: int) -> Iterator[Tensor]:
    """The four corners and the centre of square images."""
    for top, left in places(images.shape[1], size):
        yield images[:, top : top + size, left : left + size]


def sides(size: int) -> list[int]:
    """``SCALES`` for a network with images of ``size`` pixels."""
    return [round(scale * size / NETWORK) for scale in SCALES]


def squares(height: int, width: int) -> list[tuple[int, int]]:
    """Top and left of the largest squares at both ends and in the middle."""
    down, right = height - min(height, width), width - min(height, width)
    return [(0, 0), (round(down / 2), round(right / 2)), (down, right)]


def places(side: int, size: int) -> list[tuple[int, int]]:
    """Top and left of the squares of ``size`` pixels in the corners and in the middle of one of ``side`` pixels."""
    end = side - size
    return [(0, 0), (0, end), (end, 0), (end, end), (round(end / 2), round(end / 2))]


def square(images: Tensor, side: int) -> Tensor:
    """The shorter side scaled to ``side``, the centre square: → (B, side, side, C) float32."""
    return centre(scaled(images, side), side)


def centre(images: Tensor, side: int) -> Tensor:
    """The square in the middle, a view: (B, H, W, C) → (B, side, side, C)."""
    top, left = (round((length - side) / 2) for length in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def scaled(images: Tensor, side: int) -> Tensor:
    """The shorter side scaled to ``side``, the other one with it: (B, H, W, C) → (B, h, w, C) float32."""
    images = images.float()
    height, width = images.shape[1:3]
    short = min(height, width)
    if short == side:
        return images
    shape = [round(length * side / short) for length in (height, width)]
    large = F.interpolate(images.permute(0, 3, 1, 2), shape, mode="bilinear", antialias=True, align_corners=False)
    return large.permute(0, 2, 3, 1)
