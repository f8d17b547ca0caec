"""Augmentations that move pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.augment.transform import Draws, Stage, Transform, beside, uniform
from bench.rules import PROBABILITY, ascending, check_argument, choice, whole


class RandomCrop(Transform):
    """Pad by ``padding`` pixels on each side and crop ``size``×``size`` at a random place.

    ``mode``: ``zero`` pads with 0 (black, or the mean if images are normalised first), ``reflect`` with the mirrored
    image, without repeating its edge: the padding modes ``constant`` and ``reflect`` of
    :class:`torchvision.transforms.RandomCrop`. Without padding, the random crops of AlexNet (Krizhevsky et al. 2012,
    section 4.1) from larger images (``data.decode_size``).

    Raises:
        ValueError: an argument is out of range; or, when called, ``padding`` is too large to reflect, or the padded
            images are smaller than ``size``.
    """

    stage = Stage.GEOMETRY

    def __init__(self, size: int, padding: int = 4, mode: Literal["zero", "reflect"] = "reflect"):
        check_argument("size", size, whole(1))
        check_argument("padding", padding, whole(0))
        check_argument("mode", mode, choice("zero", "reflect"))
        self.size, self.padding, self.mode = size, padding, mode

    def draw(self, draws: Draws) -> Tensor:
        """Position of the crop between top (left) and bottom (right), (n, 2) in [0, 1): vertical, horizontal."""
        return uniform(draws, 0, 1, columns=2)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, size, size, C)."""
        b, side, _, c = images.shape
        padded, wide = self._pad(images), side + 2 * self.padding
        if wide < self.size:
            raise ValueError(f"size={self.size}: images of {side}×{side} padded by {self.padding} are smaller")
        top, left = (parameters * (wide - self.size + 1)).long().T
        # a row of a crop is size * c contiguous values; rows start at every pixel of all images
        pixels = b * wide * wide
        rows = padded.as_strided((pixels - self.size + 1, self.size * c), (c, 1))
        first = torch.arange(b) * wide * wide + top * wide + left
        begin = first[:, None] + torch.arange(self.size) * wide
        return rows.index_select(0, beside(begin.flatten(), images)).view(b, self.size, self.size, c)

    def _pad(self, images: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S + 2·padding, S + 2·padding, C), contiguous."""
        b, side, _, c = images.shape
        p = self.padding
        if p == 0:
            return images.contiguous()
        if self.mode == "reflect" and p >= side:
            raise ValueError(f"padding={p}: reflecting {side}×{side} images allows at most {side - 1}")
        padded = images.new_zeros(b, side + 2 * p, side + 2 * p, c)
        padded[:, p:-p, p:-p] = images
        if self.mode == "reflect":
            padded[:, :p] = padded[:, p + 1 : 2 * p + 1].flip(1)
            padded[:, -p:] = padded[:, -2 * p - 1 : -p - 1].flip(1)
            padded[:, :, :p] = padded[:, :, p + 1 : 2 * p + 1].flip(2)
            padded[:, :, -p:] = padded[:, :, -2 * p - 1 : -p - 1].flip(2)
        return padded


class HorizontalFlip(Transform):
    """Mirror left and right with probability ``p``."""

    stage = Stage.GEOMETRY

    def __init__(self, p: float = 0.5):
        check_argument("p", p, PROBABILITY)
        self.p = p

    def draw(self, draws: Draws) -> Tensor:
        """Whether to flip, (n, 1) bool."""
        return uniform(draws, 0, 1) < self.p

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S, S, C)."""
        flipped = beside(parameters[:, 0].nonzero()[:, 0], images)
        return images.index_copy(0, flipped, images.index_select(0, flipped).flip(2))


class AlternatingFlip(HorizontalFlip):
    """Mirror a random half of the images in the first epoch, and from then on each image in every other epoch.

    Each image is seen both ways in two epochs, which random flips achieve for only half of them (Jordan, "94 % on
    CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.6).
    """

    def __init__(self) -> None:
        super().__init__(p=0.5)

    def draw(self, draws: Draws) -> Tensor:
        """Whether to flip, (n, 1) bool."""
        first = torch.rand(draws.n, 1, generator=draws.lasting) < self.p
        return first ^ bool(draws.epoch % 2)


class RandomResizedCrop(Transform):
    """Crop a rectangle of random area, aspect ratio and position, and scale it to ``size``×``size``.

    Szegedy et al. 2015, section 6: 8 to 100 % of the area, ratio 3/4 to 4/3. Bilinear with antialiasing, like
    :class:`torchvision.transforms.RandomResizedCrop`.

    Args:
        size: side of the result in pixels.
        scale: minimum and maximum area, as fractions of the image's.
        ratio: minimum and maximum width over height.

    Raises:
        ValueError: an argument is out of range.
    """

    stage = Stage.GEOMETRY
    tries = 10

    def __init__(self, size: int, scale: Sequence[float] = (0.08, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)):
        check_argument("size", size, whole(1))
        check_argument("scale", scale, ascending("in (0, 1]", lambda low, high: low > 0 and high <= 1))
        check_argument(
            "ratio", ratio, ascending("above 0 with 1 between them", lambda low, high: 0 < low <= 1 <= high < math.inf)
        )
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)

    def draw(self, draws: Draws) -> Tensor:
        """Height and width as fractions of the side, and the position between top (left) and bottom (right), (n, 4).

        The first of 10 draws that fits into the image; if none does, the whole image.
        """
        area = uniform(draws, self.scale[0], self.scale[1], columns=self.tries)
        ratio = uniform(draws, math.log(self.ratio[0]), math.log(self.ratio[1]), columns=self.tries).exp()
        height, width = (area / ratio).sqrt(), (area * ratio).sqrt()
        fits = (height <= 1) & (width <= 1)
        first = fits.int().argmax(1, keepdim=True)
        some = fits.any(1, keepdim=True)
        chosen = [torch.where(some, edge.gather(1, first), 1.0) for edge in (height, width)]
        return torch.cat([*chosen, uniform(draws, 0, 1, columns=2)], dim=1)

    def boxes(self, side: int, parameters: Tensor) -> Tensor:
        """Top, left, height and width in pixels, (B, 4) int64."""
        edges = (parameters[:, :2] * side).round().long().clamp(1, side)
        return torch.cat([(parameters[:, 2:] * (side - edges + 1)).long(), edges], dim=1)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, size, size, C)."""
        b, side, _, c = images.shape
        out = images.new_empty(b, self.size, self.size, c)
        boxes = self.boxes(side, parameters).tolist()
        on_cpu = images.device.type == "cpu"

        def crop(begin: int) -> None:
            for i in range(begin, b, threads):
                top, left, height, width = boxes[i]
                cut = images[i : i + 1, top : top + height, left : left + width].permute(0, 3, 1, 2)
                # PyTorch scales uint8 only on the CPU, where it rounds
                values = cut if images.dtype != torch.uint8 or on_cpu else cut.float()
                scaled = F.interpolate(values, (self.size, self.size), mode="bilinear", antialias=True)
                out[i] = (scaled if values is cut else scaled.round()).permute(0, 2, 3, 1)[0]

        # a single image is too little work for PyTorch to parallelise; the calls release the GIL
        threads = min(b, torch.get_num_threads()) if on_cpu else 1
        if threads == 1:
            crop(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(crop, range(threads)))
        return out
