"""An average of the weights along the way, which is validated, selected and tested in their place."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights and of batch norm's statistics.

    After step t, counted from 1, average ← d · average + (1 − d) · weights with d = min(``decay``, t / (9 + t)), so
    that the random weights of the beginning are soon forgotten. Polyak, Juditsky, "Acceleration of stochastic
    approximation by averaging", 1992, which GoogLeNet uses (Szegedy et al. 2015, section 6), take the plain mean,
    which keeps them.

    Args:
        decay: in (0, 1); the average is of about the last 1 / (1 − decay) steps.
        device: where the average is kept: where the network trains.
    """

    def __init__(self, decay: float, device: torch.device):
        super().__init__(device=device, multi_avg_fn=self._update)
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            # asked in each step, which on a GPU would wait for its queue
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @torch.no_grad()
    def _update(self, averages: list[Tensor], weights: list[Tensor], _: Tensor | int) -> None:
        assert self._average_model is not None
        t = int(self._average_model.n_averaged) + 1
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - min(self.decay, t / (9 + t)))
        else:  # batch norm's count of batches
            torch._foreach_copy_(averages, weights)

    def state(self) -> Mapping[str, Tensor]:
        """The averages under the names that the weights have in the module's state."""
        assert self._average_model is not None
        return self._average_model.module.state_dict()


def weights_to_use(trainer: L.Trainer, pl_module: L.LightningModule) -> Mapping[str, Tensor]:
    """The module's state, or its average where the trainer keeps one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined] # Lightning's own mixin
        if isinstance(callback, MovingAverage):
            return callback.state()
    return pl_module.state_dict()
