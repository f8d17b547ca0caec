"""The LightningDataModule: a source, its splits, its statistics, its loaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import lightning as L
import numpy as np

from bench.data import splits
from bench.data.augment import Transform
from bench.data.loader import BatchLoader
from bench.data.sources import Dataset


class ImageData(L.LightningDataModule):
    """Train, validation and test batches of one data set.

    Args:
        source: gives the data set for (image_size, in_channels).
        image_size: side of the images in pixels.
        in_channels: 1 (grey) or 3 (RGB).
        num_classes: what the data set must have.
        val_size: validation samples held out of the training samples, stratified; 0 for none.
        batch_size: samples a batch, in training and in evaluation.
        augment: training transforms by name, applied in this order.
        seed: of the training batches' order and augmentation.

    Raises:
        ValueError: ``num_classes`` or ``val_size`` does not fit the data set.
    """

    def __init__(
        self,
        source: Callable[[int, int], Dataset],
        image_size: int,
        in_channels: int,
        num_classes: int,
        val_size: int,
        batch_size: int,
        augment: Mapping[str, Transform],
        seed: int,
    ):
        super().__init__()
        dataset = self.dataset = source(image_size, in_channels)
        if len(dataset.classes) != num_classes:
            raise ValueError(f"data.num_classes={num_classes}: the data set has {len(dataset.classes)} classes")
        rest, held_out = splits.hold_out(dataset.labels[dataset.train], val_size)
        self.train, self.val, self.test = dataset.train[rest], dataset.train[held_out], dataset.test
        self.mean, self.std = pixel_statistics(dataset.pixels, self.train)
        self.batch_size, self.transforms, self.seed = batch_size, tuple(augment.values()), seed

    def loader(
        self, index: np.ndarray, transforms: Sequence[Transform] = (), shuffle_seed: int | None = None
    ) -> BatchLoader:
        """Batches of the samples ``index``; in order and unchanged unless told otherwise."""
        data = self.dataset
        return BatchLoader(
            data.pixels, data.labels, index, self.mean, self.std, self.batch_size, transforms, shuffle_seed
        )

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented training batches."""
        return self.loader(self.train, self.transforms, self.seed)

    def val_dataloader(self) -> BatchLoader:
        """Validation batches, in order."""
        return self.loader(self.val)

    def test_dataloader(self) -> BatchLoader:
        """Test batches, in order."""
        return self.loader(self.test)


def pixel_statistics(pixels: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over the images ``index``, both (C,) in [0, 255].

    Exact, from the histogram of the 256 values, a thousand images at a time.
    """
    channels = pixels.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for part in np.array_split(index, max(1, len(index) // 1000)):
        flat = pixels[part].reshape(-1, channels)
        counts += np.stack([np.bincount(flat[:, c], minlength=256) for c in range(channels)])
    values = np.arange(256)
    mean = counts @ values / counts.sum(axis=1)
    variance = counts @ values**2 / counts.sum(axis=1) - mean**2
    return mean, np.where(variance > 1e-6, np.sqrt(np.maximum(variance, 0)), 1.0)  # a constant channel is only centred
