"""Exact statistics of training images, computed in chunks."""

from __future__ import annotations

import numpy as np

CHUNK_BYTES = 2**24
"""Bytes of stored pixels processed at a time; as float64 they take eight times as many."""


def chunks(pixels: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
    """``index`` in chunks whose images (S, S, C) uint8 take about ``CHUNK_BYTES``."""
    return np.array_split(index, max(1, -(-len(index) * pixels[:1].nbytes // CHUNK_BYTES)))


def pixel_statistics(pixels: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over the images ``index``, both (C,) in [0, 255].

    Exact, from the histogram of the 256 values.
    """
    channels = pixels.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for part in chunks(pixels, index):
        flat = pixels[part].reshape(-1, channels)
        counts += np.stack([np.bincount(flat[:, c], minlength=256) for c in range(channels)])
    values = np.arange(256)
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    return mean, np.where(variance > 1e-6, np.sqrt(np.maximum(variance, 0)), 1.0)  # a constant channel is only centred


def color_covariance(pixels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Covariance of the channels over all pixels of the images ``index``, (C, C); sums in float64."""
    channels = pixels.shape[-1]
    total, products, count = np.zeros(channels), np.zeros((channels, channels)), 0
    for part in chunks(pixels, index):
        flat = pixels[part].reshape(-1, channels).astype(np.float64)
        total += flat.sum(axis=0)
        products += flat.T @ flat
        count += len(flat)
    mean = total / count
    return products / count - np.outer(mean, mean)
