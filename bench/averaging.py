"""A moving average of the weights, which is validated, selected and tested in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from bench.data.loader import Batch


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights and of batch norm's statistics.

    After step t, counted from 1, average ← d · average + (1 − d) · weights with d = min(``decay``, (t − 1) / (t + 9)):
    it starts with the weights of the first step and soon forgets them. Polyak, Juditsky, "Acceleration of stochastic
    approximation by averaging", 1992, which GoogLeNet uses (Szegedy et al. 2015, section 6), take the mean of all
    steps, including the first ones.

    Args:
        decay: in (0, 1); eventually the average covers about the last 1 / (1 − decay) steps.
    """

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay

    def average(self) -> nn.Module:
        """The module with the averages, once the fit has started."""
        assert self._average_model is not None
        return self._average_model.module

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move it to the device of the weights, which were not there yet when Lightning created the average."""
        self.average().to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Update it; here because PyTorch's AveragedModel reads the step from a tensor, which synchronises GPUs."""
        t = trainer.global_step
        if t == self._latest_update_step:
            return
        self._latest_update_step = t
        pairs = list(zip(_tensors(self.average()), _tensors(pl_module), strict=True))
        averages, weights = zip(*((a, w) for a, w in pairs if a.is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, weights, 1 - min(self.decay, (t - 1) / (t + 9)))
        for a, w in pairs:
            if not a.is_floating_point():  # batch norm's count of batches
                a.copy_(w)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate the average, with the buffers of the first process, which DDP sees to in training."""
        if trainer.world_size > 1:
            for buffer in self.average().buffers():
                torch.distributed.broadcast(buffer, 0)
        super().on_validation_epoch_start(trainer, pl_module)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def weights_to_use(trainer: L.Trainer, pl_module: L.LightningModule) -> Mapping[str, Tensor]:
    """The module's state, or its average if the trainer keeps one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined] # Lightning's own mixin
        if isinstance(callback, MovingAverage):
            return callback.average().state_dict()
    return pl_module.state_dict()
