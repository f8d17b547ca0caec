"""The LightningDataModule: a source, its splits, its statistics, its loaders."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import numpy as np
import torch

from bench.data.augment import Draws, Mix, Transform
from bench.data.dataset import Dataset, Source
from bench.data.decode import Decoder
from bench.data.loader import BatchLoader, Shard, mapped
from bench.data.normalize import Normalize
from bench.data.pipeline import Pipeline

RESIDENT_SHARE = 0.5
"""With ``storage=auto`` images are stored on the GPU if they take at most this fraction of its free memory."""


class ImageData(L.LightningDataModule):
    """Training, validation and test batches of one data set.

    Args:
        source: returns the data set for a decoder.
        decoder: decodes images to the size at which they are stored.
        image_size: side of the images in batches; larger stored ones are cropped.
        train_image_size: side of the training images; None for the same.
        num_classes: expected number of classes in the data set.
        val_size: validation samples held out from the training samples, stratified, 0 for none; None for the source's
            own validation images, if any.
        batch_size: samples per batch and process, in training and evaluation.
        augment: training transforms, and at most one that mixes samples.
        normalize: fitted to the training part.
        seed: for the order and augmentation of the training batches.
        device: where batches are created: the network's device.
        storage: where the images are stored: ``cpu``; ``cuda``, if ``device`` is; or ``auto``, on the GPU if they fit.
        dtype: of the images in training and validation; float32 in the test.

    Raises:
        ValueError: an argument does not fit the data set or another argument.
    """

    def __init__(
        self,
        source: Source,
        decoder: Decoder,
        image_size: int,
        num_classes: int,
        val_size: int | None,
        batch_size: int,
        augment: Sequence[Transform | Mix],
        normalize: Normalize,
        seed: int,
        device: torch.device | str = "cpu",
        storage: str = "auto",
        train_image_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ):
        super().__init__()
        self.memory_format = memory_format
        self.device, self.dtype = torch.empty(0, device=device).device, dtype  # with its index, like tensors' devices
        self.mix = mix_of(augment)  # refused before images are decoded
        transforms = [one for one in augment if isinstance(one, Transform)]
        self.storage = storage
        resident(0, self.device, storage)  # reject what is impossible before images are decoded
        dataset = self.dataset = source(decoder)
        if len(dataset.classes) != num_classes:
            raise ValueError(f"data.num_classes={num_classes}: the data set has {len(dataset.classes)} classes")
        self.train, self.val, self.test = parts(dataset, val_size)
        normalize.fit(dataset.pixels, self.train)
        for transform in transforms:
            transform.fit(dataset.pixels, self.train)
        self.plain = Pipeline(image_size, normalize)
        self.augmented = Pipeline(train_image_size or image_size, normalize, transforms)
        self._try_out()
        self.batch_size, self.seed, self.num_classes = batch_size, seed, num_classes
        # on the CPU, the memory-mapped file itself
        self.pixels, self.labels = mapped(dataset.pixels), torch.from_numpy(dataset.labels)

    def _try_out(self) -> None:
        """Let the transforms reject images to which they cannot be applied."""
        image = torch.from_numpy(self.dataset.pixels[self.train[:1]])
        generators = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        self.augmented(image, self.augmented.draw(Draws(1, 0, *generators)))

    def loader(self, index: np.ndarray, augment: bool = False, dtype: torch.dtype | None = None) -> BatchLoader:
        """Batches of the samples ``index``: in order and unchanged, or shuffled and augmented.

        With a Trainer, only its process's share of them, on its process's device.
        """
        shard, device = Shard(), self.device
        if self.trainer is not None:
            shard = Shard(self.trainer.global_rank, self.trainer.world_size)
            device = torch.empty(0, device=self.trainer.strategy.root_device).device
        if self.pixels.device != device and resident(self.dataset.pixels.nbytes, device, self.storage):
            self.pixels, self.labels = self.pixels.to(device), self.labels.to(device)
        return BatchLoader(
            self.pixels,
            self.labels,
            index,
            self.augmented if augment else self.plain,
            self.batch_size,
            shuffle_seed=self.seed if augment else None,
            mix=self.mix if augment else None,
            num_classes=self.num_classes,
            device=device,
            dtype=dtype or self.dtype,
            memory_format=self.memory_format,
            shard=shard,
        )

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented training batches."""
        return self.loader(self.train, augment=True)

    def val_dataloader(self) -> BatchLoader:
        """Validation batches, in order."""
        return self.loader(self.val)

    def test_dataloader(self) -> BatchLoader:
        """Test batches, in order, in 32 bits."""
        return self.loader(self.test, dtype=torch.float32)


def mix_of(augment: Sequence[Transform | Mix]) -> Mix | None:
    """The one augmentation that mixes samples, if any.

    Raises:
        ValueError: there are several.
    """
    mixes = [one for one in augment if isinstance(one, Mix)]
    if len(mixes) > 1:
        names = " and ".join(type(mix).__name__ for mix in mixes)
        raise ValueError(f"augment: {names} exclude each other; choose one")
    return mixes[0] if mixes else None


def parts(dataset: Dataset, val_size: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the training, validation and test samples; ``val_size`` as for :class:`ImageData`."""
    if val_size is None:
        return dataset.train, dataset.val, dataset.test
    if len(dataset.val):
        raise ValueError(f"data.val_size={val_size}: must be null, there are {len(dataset.val):,} validation images")
    try:
        return *dataset.hold_out(val_size), dataset.test
    except ValueError as error:
        raise ValueError(f"data.val_size={val_size}: {error}") from error


def resident(size: int, device: torch.device, storage: str) -> bool:
    """Whether ``size`` bytes of images are stored on the GPU ``device``.

    Raises:
        ValueError: ``storage`` is invalid, or is ``cuda`` while ``device`` is not.
    """
    if storage not in ("auto", "cpu", "cuda"):
        raise ValueError(f"data.device={storage}: must be one of auto, cpu, cuda")
    if storage == "cuda" and device.type != "cuda":
        raise ValueError(f"data.device=cuda: the network trains on {device}; choose auto or cpu")
    if device.type != "cuda" or storage == "cpu":
        return False
    return storage == "cuda" or size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
