"""Normalisation of pixel values to zero mean, fitted to the training images and applied to all images."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench import console
from bench.data import cache
from bench.data.statistics import chunks, pixel_statistics
from bench.rules import NUMBER, POSITIVE, SWITCH, check_argument, check_arguments, list_of, or_null


class Normalize(ABC):
    """Turns images (B, S, S, C), uint8 or float32 in [0, 255], into float32.

    ``first``: whether it comes before transforms that move pixels, because it depends on the position of a pixel.
    """

    first: ClassVar[bool]

    @abstractmethod
    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:
        """Fit to the training images ``pixels[index]``, (N, S, S, C) uint8."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What was fitted, for a checkpoint."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state`` returned, instead of fitting."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(B, S, S, C) → (B, S, S, C) float32."""


class AffineNormalize(Normalize):
    """Scale and shift, one pair per value of the image."""

    def __init__(self) -> None:
        self.scale: Tensor | None = None  # (S·S·C,) or (C,), as fitted
        self.shift: Tensor | None = None
        self._rows: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def _set(self, scale: np.ndarray, shift: np.ndarray) -> None:
        self.restore({"scale": torch.from_numpy(scale).float(), "shift": torch.from_numpy(shift).float()})

    def state(self) -> dict[str, Tensor]:
        assert self.scale is not None, "fit first"
        assert self.shift is not None
        return {"scale": self.scale, "shift": self.shift}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.scale, self.shift = state["scale"], state["shift"]
        self._rows.clear()

    def __call__(self, images: Tensor) -> Tensor:
        assert self.scale is not None, "fit first"
        assert self.shift is not None
        values = images.flatten(1).float()
        width = values.shape[1]
        if (width, values.device) not in self._rows:
            # expanded to the width of an image: broadcasting over 3 channels would cost ten times as much
            times = width // len(self.scale) if len(self.scale) == images.shape[-1] else 1
            rows = [row.repeat(times).to(values.device) for row in (self.scale, self.shift)]
            self._rows[width, values.device] = rows[0], rows[1]
        scale, shift = self._rows[width, values.device]
        return torch.addcmul(shift, values, scale).view(images.shape)


class ChannelNormalize(AffineNormalize):
    """Subtract each channel's mean and divide by its standard deviation over the training images.

    ``mean``, ``std``: (C,) in [0, 255]; if given, they replace those of the training images, as needed for weights
    trained on other images. Without ``unit_variance`` only the mean is subtracted, as in VGG (section 2.1 of its
    paper) and the Caffe model of GoogLeNet, and values stay in [-255, 255].

    Raises:
        ValueError: only one of the two is given, an argument is of another type, a standard deviation is not above 0,
            or, when fitted, their number of channels is wrong.
    """

    first = False

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, unit_variance: bool = True
    ):
        super().__init__()
        self.unit_variance = unit_variance
        check_argument("unit_variance", unit_variance, SWITCH)
        if (mean is None) != (std is None):
            raise ValueError(f"mean={mean}, std={std}: give both or neither")
        check_argument("mean", mean, or_null(list_of(NUMBER, "numbers, one per channel")))
        check_argument("std", std, or_null(list_of(POSITIVE, "numbers above 0, one per channel")))
        self.given = None if mean is None or std is None else (np.array(mean, float), np.array(std, float))

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:
        """Exact statistics of ``pixels[index]``, unless they were given."""
        self.mean, self.std = self.given or pixel_statistics(pixels, index)
        if not len(self.mean) == len(self.std) == pixels.shape[-1]:
            raise ValueError(f"mean and std are for {len(self.mean)} channels; images have {pixels.shape[-1]}")
        scale = 1 / self.std if self.unit_variance else np.ones_like(self.std)
        self._set(scale, -self.mean * scale)


class PixelMeanNormalize(AffineNormalize):
    """Subtract the mean image of the training images.

    Krizhevsky et al. 2012, section 2, where values stay in [-255, 255]; ``unit_variance`` divides them by each
    channel's standard deviation around that image.
    """

    first = True

    def __init__(self, unit_variance: bool = True):
        super().__init__()
        check_argument("unit_variance", unit_variance, SWITCH)
        self.unit_variance = unit_variance

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:
        """The mean image of ``pixels[index]``, from exact sums."""
        total, squares = np.zeros(pixels.shape[1:]), np.zeros(pixels.shape[1:])
        for part in chunks(pixels, index):
            values = pixels[part].astype(np.float64)
            total += values.sum(axis=0)
            squares += (values**2).sum(axis=0)
        mean = total / len(index)  # (S, S, C)
        variance = np.maximum(squares / len(index) - mean**2, 0).mean(axis=(0, 1))
        std = np.where(variance > 1e-6, np.sqrt(variance), 1.0) if self.unit_variance else np.ones(pixels.shape[-1])
        self._set(np.broadcast_to(1 / std, mean.shape).flatten(), (-mean / std).flatten())


class ZcaNormalize(Normalize):
    """Global contrast normalisation, then ZCA whitening, as used by the NiN paper (Lin et al. 2014, section 4.2).

    After Goodfellow et al., "Maxout networks", ICML 2013, section 5.2, with the constants of their code: each image is
    centred and scaled to the Euclidean norm ``scale``; then, with mean μ and covariance VΛVᵀ of the training
    images so treated, x → V (Λ + ``bias``)^(-1/2) Vᵀ (x - μ).

    Args:
        cache_dir: where the whitening matrix is cached, which takes a while to compute.
        scale: norm of an image; 55 gives 32×32×3 values a variance of 1.
        bias: added to the eigenvalues.

    Raises:
        ValueError: ``scale`` or ``bias`` is not above 0; or, when fitted, images have more than 4,096 values.
    """

    first = True
    most_values = 4096

    def __init__(self, cache_dir: str, scale: float = 55.0, bias: float = 0.1):
        check_arguments(POSITIVE, scale=scale, bias=bias)
        self.cache_dir, self.scale, self.bias = Path(cache_dir), scale, bias
        self.mean: Tensor | None = None  # (D,)
        self.whitening: Tensor | None = None  # (D, D), symmetric

    def fit(self, pixels: np.ndarray, index: np.ndarray) -> None:
        """Mean and whitening matrix of ``pixels[index]``, from the cache if they have been computed before."""
        width = int(np.prod(pixels.shape[1:]))
        if width > self.most_values:
            most = math.isqrt(self.most_values // pixels.shape[-1])
            raise ValueError(f"augment/normalize=zca: data.decode_size={pixels.shape[1]} must be at most {most}")
        digest = hashlib.sha256()
        for part in chunks(pixels, index):
            digest.update(pixels[part].tobytes())
        key = [digest.hexdigest(), list(pixels.shape[1:]), self.scale, self.bias]
        place, _ = cache.entry(self.cache_dir / "zca", key, lambda part: self._build(part, pixels, index))
        self.mean = torch.from_numpy(np.load(place / "mean.npy", allow_pickle=False))
        self.whitening = torch.from_numpy(np.load(place / "whitening.npy", allow_pickle=False))

    def _build(self, folder: Path, pixels: np.ndarray, index: np.ndarray) -> dict[str, str]:
        console.say(f"whitening: principal components of {len(index):,} images")
        width = int(np.prod(pixels.shape[1:]))
        total, products = np.zeros(width), np.zeros((width, width))
        for part in chunks(pixels, index):
            values = self.contrast(torch.from_numpy(pixels[part])).double().numpy()
            total += values.sum(axis=0)
            products += values.T @ values
        mean = total / len(index)
        values, vectors = np.linalg.eigh(products / len(index) - np.outer(mean, mean))
        whitening = (vectors / np.sqrt(np.maximum(values, 0) + self.bias)) @ vectors.T
        np.save(folder / "mean.npy", mean.astype(np.float32))
        np.save(folder / "whitening.npy", whitening.astype(np.float32))
        return {}

    def state(self) -> dict[str, Tensor]:
        assert self.mean is not None, "fit first"
        assert self.whitening is not None
        return {"mean": self.mean, "whitening": self.whitening}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.mean, self.whitening = state["mean"], state["whitening"]

    def contrast(self, images: Tensor) -> Tensor:
        """Global contrast normalisation: (B, S, S, C) → (B, S·S·C) float32; a constant image becomes 0."""
        values = images.flatten(1).float()
        values = values - values.mean(dim=1, keepdim=True)
        norm = values.norm(dim=1, keepdim=True)  # one grey level in one pixel is 1; less is rounding
        return values * (self.scale / torch.where(norm < 1e-2, 1.0, norm))

    def __call__(self, images: Tensor) -> Tensor:
        assert self.mean is not None, "fit first"
        assert self.whitening is not None
        self.mean, self.whitening = self.mean.to(images.device), self.whitening.to(images.device)
        return ((self.contrast(images) - self.mean) @ self.whitening).view(images.shape)
