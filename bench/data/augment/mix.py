"""Augmentations that mix two samples and their labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.data.augment.erase import inside
from bench.data.augment.transform import Draws, Mix, beside, uniform
from bench.rules import POSITIVE, check_argument


def _partners_and_shares(alpha: float, draws: Draws) -> Tensor:
    """Partners, a permutation of the samples, and shares from Beta(alpha, alpha), (n, 2) float64."""
    partners = torch.randperm(draws.n, generator=draws.generator).double()
    state = int(torch.randint(2**62, (1,), generator=draws.generator))  # PyTorch's beta takes no generator
    shares = np.random.default_rng(state).beta(alpha, alpha, draws.n)
    return torch.stack([partners, torch.from_numpy(shares)], dim=1)


class Mixup(Mix):
    """The weighted mean of two images, and of their labels, with weights from Beta(``alpha``, ``alpha``).

    Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018, equation 1; one weight per sample.

    Raises:
        ValueError: ``alpha`` is not a number above 0.
    """

    def __init__(self, alpha: float = 0.2):
        check_argument("alpha", alpha, POSITIVE)
        self.alpha = alpha

    def draw(self, draws: Draws) -> Tensor:
        """Partner and share, (n, 2)."""
        return _partners_and_shares(self.alpha, draws)

    def __call__(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, S, S, C) → the mixed images and the share of the first in each, (B,)."""
        share = beside(parameters[:, 1].float(), images)
        return torch.lerp(partners, images, share[:, None, None, None]), share


class CutMix(Mix):
    """Replace a rectangle by the same region of another image; labels are weighted by area.

    Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", ICCV 2019,
    equations 1 and 2: the rectangle covers 1 - λ of the image, λ ~ Beta(``alpha``, ``alpha``), minus what is outside.

    Raises:
        ValueError: ``alpha`` is not a number above 0.
    """

    def __init__(self, alpha: float = 1.0):
        check_argument("alpha", alpha, POSITIVE)
        self.alpha = alpha

    def draw(self, draws: Draws) -> Tensor:
        """Partner, λ, and the rectangle's centre in [0, 1): row and column as fractions of the side, (n, 4)."""
        return torch.cat([_partners_and_shares(self.alpha, draws), uniform(draws, 0, 1, columns=2)], dim=1)

    def __call__(self, images: Tensor, partners: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, S, S, C) → the combined images and the share of the first in each, (B,)."""
        side = images.shape[1]
        centre, half = (parameters[:, 2:] * side).long(), (side * (1 - parameters[:, 1:2]).sqrt() / 2).long()
        first, last = (centre - half).clamp(min=0), (centre + half).clamp(max=side)
        area = (last - first).prod(dim=1)
        mask = beside(inside(side, first, last), images)
        return torch.where(mask, partners, images), beside((1 - area / side**2).float(), images)
