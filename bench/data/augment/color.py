"""Augmentations of pixel values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.data.augment.transform import Draws, Stage, Transform, beside, uniform
from bench.data.statistics import color_covariance
from bench.rules import NOT_NEGATIVE, check_argument, number

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R 601), rounded as in torchvision."""


class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue by random amounts in a random order.

    The four changes of :class:`torchvision.transforms.ColorJitter`, without rounding to whole grey levels between
    them. Saturation and hue do not change grey images (C = 1).

    Args:
        brightness, contrast, saturation: b ≥ 0; the factor is uniform in [max(0, 1 - b), 1 + b].
        hue: h in [0, 0.5]; the hue moves by a part of the colour circle that is uniform in [-h, h].

    Raises:
        ValueError: an argument is out of range.
    """

    stage = Stage.COLOR

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0):
        for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
            check_argument(name, value, NOT_NEGATIVE)
        check_argument("hue", hue, number("a number in [0, 0.5]", lambda v: 0 <= v <= 0.5))
        self.amounts, self.hue = (brightness, contrast, saturation), hue

    def draw(self, draws: Draws) -> Tensor:
        """Factors of brightness, contrast and saturation, the hue shift, and the order of these four, (n, 8)."""
        factors = [uniform(draws, max(0.0, 1 - amount), 1 + amount) for amount in self.amounts]
        order = torch.rand(draws.n, 4, generator=draws.generator).argsort(1).double()
        return torch.cat([*factors, uniform(draws, -self.hue, self.hue), order], dim=1)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) in [0, 255] → (B, S, S, C) float32 in [0, 255]."""
        images = images.to(torch.float32, copy=True)
        amounts, order = parameters[:, :4], parameters[:, 4:]
        idle = [amount == 0 for amount in self.amounts] + [self.hue == 0]
        changes = (_brightness, _contrast, _saturation, _hue)
        for turn in range(4):
            for kind, change in enumerate(changes):
                if idle[kind] or (kind >= 2 and images.shape[-1] == 1):
                    continue
                now = (order[:, turn] == kind).nonzero()[:, 0]
                amount = beside(amounts[now, kind].float()[:, None, None, None], images)
                now = beside(now, images)
                images.index_copy_(0, now, change(images.index_select(0, now), amount))
        return images


def _gray(images: Tensor) -> Tensor:
    """(B, S, S, C) → (B, S, S, 1)."""
    if images.shape[-1] == 1:
        return images
    return sum(share * channel for share, channel in zip(LUMA, images.split(1, dim=-1), strict=True))


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * other).clamp_(0, 255)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (factor * images).clamp_(0, 255)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _gray(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _gray(images), factor)


def _hue(images: Tensor, move: Tensor) -> Tensor:
    """Shift the hue by ``move`` of the circle: to HSV and back (Smith, "Color gamut transform pairs", 1978)."""
    value, low = images.amax(-1), images.amin(-1)
    chroma = value - low
    red, green, blue = images.unbind(-1)
    span = torch.where(chroma == 0, 1.0, chroma)
    sixth = torch.where(
        value == red,
        (green - blue) / span,
        torch.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    hue = (sixth / 6 + move[..., 0]) % 1 * 6
    # each channel is value - chroma * a trapezoid over the circle, 0 around its own colour
    places = [(start + hue) % 6 for start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in places], dim=-1)


class Lighting(Transform):
    """Shift all pixels of an image along the principal components of the training set's colours.

    Krizhevsky et al. 2012, section 4.1: adds Σᵢ αᵢ λᵢ pᵢ with αᵢ ~ N(0, ``std``²), pᵢ and λᵢ being eigenvectors and
    eigenvalues of the covariance of the pixels' colours. Values are taken in [0, 1]: with eigenvalues of values in
    [0, 255] the moves would be larger than the range. The result may leave [0, 255].

    Raises:
        ValueError: ``std`` is not a number of 0 or more.
    """

    stage = Stage.COLOR

    def __init__(self, std: float = 0.1):
        check_argument("std", std, NOT_NEGATIVE)
        self.std = std
        self.components: Tensor | None = None  # (C, C): row i is 255 λᵢ pᵢ

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:
        """Principal components of the colours of ``pixels[index]``."""
        values, vectors = np.linalg.eigh(color_covariance(pixels, index) / 255**2)
        self.components = torch.from_numpy(255 * values[:, None] * vectors.T).float()

    def draw(self, draws: Draws) -> Tensor:
        """α, (n, 3), standard normal times ``std``."""
        return self.std * torch.randn(draws.n, 3, generator=draws.generator)

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S, S, C) float32."""
        assert self.components is not None, "fit first"
        move = parameters[:, : len(self.components)] @ self.components  # (B, C)
        return images + beside(move[:, None, None, :], images)
