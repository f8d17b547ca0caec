"""Batches as index gathers from an array in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.data.augment import Transform


class Batch(NamedTuple):
    """``images``: (B, C, S, S) float, channels_last, normalised. ``labels``: (B,) int64."""

    images: Tensor
    labels: Tensor


class EpochOrder:
    """The order of an epoch's samples and their generator, from (seed, epoch) alone.

    Lightning calls ``set_epoch`` before each epoch because the loader holds this as its ``sampler``.
    """

    def __init__(self, n: int, seed: int):
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0."""
        self.epoch = epoch

    def generator(self) -> torch.Generator:
        """A fresh generator for this (seed, epoch)."""
        state = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0]  # 32 bits, as PyTorch uses
        return torch.Generator().manual_seed(int(state))


class BatchLoader:
    """Iterates over batches of the samples ``index`` of an array, in order or shuffled.

    Args:
        pixels: (N, S, S, C) uint8.
        labels: (N,) int64.
        index: (n,) positions of this split's samples in ``pixels``.
        mean: (C,) of the pixel values, in [0, 255]; ``std`` likewise.
        batch_size: samples a batch; the last batch holds what is left.
        transforms: augmentations, applied in this order.
        shuffle_seed: seed of the epochs' orders and augmentations; None for the order of ``index``.
    """

    batch_sampler = None  # Lightning looks for it where it finds a sampler

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        index: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        batch_size: int,
        transforms: Sequence[Transform] = (),
        shuffle_seed: int | None = None,
    ):
        self.pixels = torch.from_numpy(pixels)
        self.labels = torch.from_numpy(labels)
        self.index = torch.from_numpy(index)
        self.scale = torch.from_numpy(1 / std).float()
        self.shift = torch.from_numpy(-mean / std).float()
        assert shuffle_seed is not None or not transforms, "augmentation needs a seed"
        self.batch_size, self.transforms = batch_size, tuple(transforms)
        self.sampler = None if shuffle_seed is None else EpochOrder(len(index), shuffle_seed)

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order, parameters = torch.arange(len(self.index)), []
        if self.sampler is not None:
            generator = self.sampler.generator()
            order = torch.randperm(len(self.index), generator=generator)
            parameters = [transform.draw(len(self.index), generator) for transform in self.transforms]
        for rows in order.split(self.batch_size) if len(order) else ():
            at = self.index[rows]
            images = self.pixels[at]
            for transform, drawn in zip(self.transforms, parameters, strict=True):
                images = transform(images, drawn[rows])
            # in memory (B, S, S, C) is channels_last (B, C, S, S)
            yield Batch((images * self.scale).add_(self.shift).permute(0, 3, 1, 2), self.labels[at])
