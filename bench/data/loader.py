"""Batches gathered by index from an array in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.data.augment import Draws, Mix
from bench.data.pipeline import Pipeline


def mapped(pixels: np.ndarray) -> Tensor:
    """An array as a tensor in the same memory. Nothing may write to it: of a read-only array, as one that is
    memory-mapped, PyTorch warns, as it has no read-only tensors.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pixels)


class Batch(NamedTuple):
    """``images``: (B, C, S, S) floating point, normalised. ``labels``: (B,) int64. ``targets``: for
    mixed images, (B, num_classes) float32, the share of each class; ``labels`` are then the classes with the larger
    share. ``weight``: weight of the batch's mean loss when processes average theirs; 1 unless their shares differ.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor | None = None
    weight: float = 1.0


class Epoch(NamedTuple):
    """The random parameters of an epoch: the ``order`` of the samples (n,), the transforms' ``tables``, (n, k) each,
    and the partners and parameters of mixing ``pairs``, (n, k).
    """

    order: Tensor
    tables: list[Tensor]
    pairs: Tensor | None


class EpochOrder:
    """The randomness of an epoch, a function of (seed, epoch) alone.

    Lightning calls ``set_epoch`` before each epoch because this is the loader's ``sampler``.
    """

    def __init__(self, n: int, seed: int):
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0."""
        self.epoch = epoch

    def draws(self) -> Draws:
        """New generators for this (seed, epoch) and for this seed."""
        return Draws(
            self.n,
            self.epoch,
            generator=_generator(np.random.SeedSequence([self.seed, self.epoch])),
            lasting=_generator(np.random.SeedSequence(self.seed, spawn_key=(0,))),
        )


def _generator(sequence: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))  # 32 bits, as PyTorch uses


class Shard(NamedTuple):
    """The part of each batch for process ``rank``, counted from 0, of ``processes``."""

    rank: int = 0
    processes: int = 1

    def batches(self, n: int, batch_size: int) -> list[tuple[int, int, float]]:
        """Start and end (exclusive) of each of this process's batches of ``n`` samples, and the batch's weight: its
        size over the processes' mean size; all processes have the same number of batches.

        In each step, the processes together take the batch that one process would have with ``processes`` ·
        ``batch_size`` samples per batch. The last batch has the remainder, in shares that differ by at most one sample;
        if that is fewer than two per process, which batch norm needs (one if ``batch_size`` is 1), it is merged into
        the previous batch.

        Raises:
            ValueError: there are fewer samples than processes.
        """
        if 0 < n < self.processes:
            raise ValueError(f"{n} samples cannot be split among {self.processes} processes")
        starts = list(range(0, n, batch_size * self.processes))
        if len(starts) > 1 and n - starts[-1] < min(2, batch_size) * self.processes:
            starts.pop()
        ends = [*starts[1:], n] if starts else []

        cuts = []
        for begin, end in zip(starts, ends, strict=True):
            first, last = (begin + (end - begin) * rank // self.processes for rank in (self.rank, self.rank + 1))
            cuts.append((first, last, (last - first) * self.processes / (end - begin)))
        return cuts


class BatchLoader:
    """Iterates over batches of the samples ``index`` of an array, in order or shuffled.

    Its state is the number of batches already yielded in the epoch; an epoch started from it yields the rest.

    Args:
        pixels: (N, D, D, C) uint8, on the CPU or on ``device``.
        labels: (N,) int64, where ``pixels`` are.
        index: (n,) positions of this split's samples in ``pixels``.
        pipeline: turns stored pixels into the network's input.
        batch_size: samples per batch and process; for the last batch, see :meth:`Shard.batches`.
        shuffle_seed: seed of the epochs' orders and augmentations; None for the order of ``index`` and a pipeline
            without transforms.
        mix: mixes samples, which then have ``targets`` over ``num_classes``; needs a seed.
        device: where batches are created.
        dtype, memory_format: of the images.
        shard: this process's share.
    """

    batch_sampler = None  # Lightning looks for it if there is a sampler

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        index: np.ndarray,
        pipeline: Pipeline,
        batch_size: int,
        shuffle_seed: int | None = None,
        mix: Mix | None = None,
        num_classes: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
        shard: Shard | None = None,
    ):
        self.pixels, self.labels, self.index = pixels, labels, torch.from_numpy(index)
        self.pipeline, self.mix, self.num_classes = pipeline, mix, num_classes
        self.device, self.dtype, self.memory_format = torch.device(device), dtype, memory_format
        self.cuts = (shard or Shard()).batches(len(index), batch_size)
        self.sampler = None if shuffle_seed is None else EpochOrder(len(index), shuffle_seed)
        assert mix is None or shuffle_seed is not None, "mixing needs a seed"
        self._start = self._given = 0

    def state_dict(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """From a checkpoint."""
        self._start = self._given = state["given"]

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.draw()
        start, self._start = self._start, 0
        for i, (begin, end, weight) in enumerate(self.cuts[start:], start=start + 1):
            self._given = i % len(self.cuts)
            yield self.batch(epoch.order[begin:end], epoch)._replace(weight=weight)

    def draw(self) -> Epoch:
        """The random parameters of the current epoch."""
        n = len(self.index)
        if self.sampler is None:
            return Epoch(torch.arange(n), [], None)
        draws = self.sampler.draws()
        order = torch.randperm(n, generator=draws.generator)
        return Epoch(order, self.pipeline.draw(draws), None if self.mix is None else self.mix.draw(draws))

    def batch(self, rows: Tensor, epoch: Epoch) -> Batch:
        """The split's samples ``rows``, (B,) in [0, n), as they are in an epoch."""
        images, labels = self._samples(rows, epoch.tables)
        targets = None
        if self.mix is not None and epoch.pairs is not None:
            pairs = epoch.pairs[rows]
            partners, others = self._samples(pairs[:, 0].long(), epoch.tables)
            images, share = self.mix(images, partners, pairs)
            one, other = (F.one_hot(y, self.num_classes).float() for y in (labels, others))
            targets = torch.lerp(other, one, share[:, None])
            labels = torch.where(share >= 0.5, labels, others)
        # (B, S, S, C) in memory is channels_last (B, C, S, S)
        images = images.to(self.dtype).contiguous().permute(0, 3, 1, 2)
        return Batch(images.contiguous(memory_format=self.memory_format), labels, targets)

    def _samples(self, rows: Tensor, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Augmented images (B, S, S, C) and labels (B,), on the device, of the split's samples ``rows``."""
        at = self.index[rows]
        images, labels = (self._gather(source, at) for source in (self.pixels, self.labels))
        return self.pipeline(images, [table[rows] for table in tables]), labels

    def _gather(self, source: Tensor, at: Tensor) -> Tensor:
        """Rows ``at`` of ``source``, on the device."""
        if source.device == self.device:
            return source.index_select(0, at.to(self.device, non_blocking=True))
        if self.device.type != "cuda":
            return source.index_select(0, at).to(self.device)
        # from pinned memory, the copy runs while Python prepares the next steps
        gathered = torch.empty((len(at), *source.shape[1:]), dtype=source.dtype, pin_memory=True)
        torch.index_select(source, 0, at, out=gathered)
        return gathered.to(self.device, non_blocking=True)
