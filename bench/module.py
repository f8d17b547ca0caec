"""The one LightningModule."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from bench import machine
from bench.checkpoint import LAST, CheckpointError, gather
from bench.data.loader import Batch
from bench.errors import first
from bench.models.layers import AUX_HEADS, Output
from bench.optim import OptimizerFactory, SchedulerFactory, parameter_groups

FLUSH_SAMPLES = 2048


class EpochMetrics(nn.Module):
    """Top-1, top-5 and mean cross entropy over an epoch, each sample counted once.

    Logits are collected and passed to torchmetrics a few thousand samples at a time: an update per step would cost a
    small network a tenth of its speed.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.accuracy = MetricCollection(
            {
                f"top{k}": MulticlassAccuracy(
                    num_classes, top_k=min(k, num_classes), average="micro", validate_args=False
                )
                for k in (1, 5)
            },
            compute_groups=False,
        )
        self.loss = MeanMetric(nan_strategy="disable")  # a NaN loss must show
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def reset(self) -> None:
        """Forget all samples."""
        self.accuracy.reset()
        self.loss.reset()
        self._logits, self._labels = [], []

    def progress(self) -> dict[str, Any]:
        """What has been counted since the last reset, for a checkpoint within an epoch."""
        # on the CPU: on their way to other processes, tensors of a GPU would open that GPU in each of them
        counted = {
            name: {state: value.cpu() for state, value in metric.metric_state.items()}  # type: ignore[union-attr] # no lists
            for name, metric in self._metrics().items()
        }
        logits, labels = ([t.cpu() for t in held] for held in (self._logits, self._labels))
        return {"counted": counted, "logits": logits, "labels": labels}

    def resume(self, progress: dict[str, Any]) -> None:
        """Continue counting from ``progress``."""
        for name, metric in self._metrics().items():
            for state, value in progress["counted"][name].items():
                setattr(metric, state, value.to(metric.device))
        device = self.loss.device
        self._logits, self._labels = ([t.to(device) for t in progress[key]] for key in ("logits", "labels"))

    def _metrics(self) -> dict[str, Metric]:
        return {**dict(self.accuracy.items()), "loss": self.loss}

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (B, num_classes), labels (B,)."""
        self._logits.append(logits.detach().clone())  # the next replay of a CUDA graph writes into the same memory
        self._labels.append(labels)
        if len(self._logits) * len(labels) >= FLUSH_SAMPLES:
            self._flush()

    def _flush(self) -> None:
        if not self._logits:
            return
        logits, labels = torch.cat(self._logits).float(), torch.cat(self._labels)
        self.accuracy.update(logits, labels)
        self.loss.update(F.cross_entropy(logits, labels, reduction="none"))
        self._logits, self._labels = [], []

    def compute(self) -> dict[str, float]:
        """``top1``, ``top5``, ``loss`` over all samples (of all devices) since the last reset."""
        self._flush()
        return {name: value.item() for name, value in [*self.accuracy.compute().items(), ("loss", self.loss.compute())]}


class Classifier(L.LightningModule):
    """Trains and evaluates any network that returns an ``Output``.

    The loss is the cross entropy of the logits plus ``aux_weight`` times that of each auxiliary head (Szegedy et al.
    2015, section 5: 0.3), both with ``label_smoothing``. Reported losses are plain cross entropies of the logits.

    Logged once per epoch: ``{train,val,test}/{top1,top5,loss}``, ``train/aux<i>_top1`` for each auxiliary head,
    counted from 1 in order of depth, and ``lr``, the learning rate of the epoch's last step.

    Args:
        model: (N, C, S, S) → Output; one that has auxiliary heads holds them in ``aux_heads``.
        num_classes: width of the logits.
        optimizer: creates the optimizer from parameter groups.
        scheduler: creates the schedule, stepped once per batch, from the optimizer and the number of steps.
        label_smoothing: in [0, 1).
        aux_weight: weight of each auxiliary head's loss, 0 or more.
        clip_norm: gradients are scaled down to this global norm; None for no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory,
        label_smoothing: float = 0.0,
        aux_weight: float = 0.3,
        clip_norm: float | None = 1.0,
    ):
        super().__init__()
        self.model = model
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.num_classes, self.label_smoothing, self.aux_weight = num_classes, label_smoothing, aux_weight
        self.clip_norm = clip_norm
        self.train_metrics = EpochMetrics(num_classes)
        self.val_metrics = EpochMetrics(num_classes)
        self.test_metrics = EpochMetrics(num_classes)
        heads = getattr(model, AUX_HEADS, ())
        self.aux_metrics = nn.ModuleList(EpochMetrics(num_classes) for _ in heads)
        self.test_logits: list[Tensor] = []
        self._progress: list[dict[str, Any]] = []
        self._lr = math.nan

    def forward(self, images: Tensor) -> Output:
        """(N, C, S, S) → Output."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, a scalar."""
        out: Output = self.model(batch.images)
        wanted = batch.labels if batch.targets is None else batch.targets
        loss = self.criterion(out.logits, wanted)
        for head in out.aux:
            loss = loss + self.aux_weight * self.criterion(head, wanted)
        self.train_metrics.update(out.logits, batch.labels)
        for metrics, head in zip(self.heads(), out.aux, strict=True):
            metrics.update(head, batch.labels)
        return loss if batch.weight == 1 else loss * batch.weight

    def criterion(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Cross entropy with label smoothing, the mean over the batch; ``wanted``: classes (B,) or shares (B, K)."""
        return F.cross_entropy(logits, wanted, label_smoothing=self.label_smoothing)

    def heads(self) -> list[EpochMetrics]:
        """The auxiliary heads' metrics, in order of depth."""
        return [metrics for metrics in self.aux_metrics if isinstance(metrics, EpochMetrics)]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a validation batch."""
        self.val_metrics.update(self.model(batch.images).logits, batch.labels)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a test batch and keep its logits.

        In 32 bits whatever the training precision: bf16 logits tie for first place in half a percent of images.
        """
        with torch.autocast(batch.images.device.type, enabled=False):
            logits = self.model(batch.images).logits
        self.test_metrics.update(logits, batch.labels)
        self.test_logits.append(logits.float().cpu())

    def on_train_epoch_start(self) -> None:
        for metrics in (self.train_metrics, *self.heads()):
            metrics.reset()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]  # after the step it is that of the next one

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()  # also drops what Lightning's sanity check counted

    def on_test_epoch_start(self) -> None:
        machine.allow_tf32(False)  # TF32 is not 32 bits; the next run sets it again
        self.test_metrics.reset()
        self.test_logits = []

    def on_train_epoch_end(self) -> None:
        """Log the epoch; raises FloatingPointError if the loss is not finite."""
        aux = {f"train/aux{i}_top1": head.compute()["top1"] for i, head in enumerate(self.heads(), start=1)}
        train = self._log_epoch("train", self.train_metrics, aux | {"lr": self._lr})
        if not math.isfinite(train["loss"]):
            raise FloatingPointError(f"the training loss is {train['loss']} in epoch {self.current_epoch + 1}")

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self._log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.test_metrics)

    def _log_epoch(self, split: str, metrics: EpochMetrics, extra: dict[str, float] | None = None) -> dict[str, float]:
        values = metrics.compute()
        epoch = {} if split == "test" else {"epoch": float(self.current_epoch + 1)}  # Lightning's own counts from 0
        # already summed over devices by torchmetrics
        self.log_dict({f"{split}/{name}": value for name, value in values.items()} | (extra or {}) | epoch)
        return values

    def configure_optimizers(self):
        optimizer = self.make_optimizer(parameter_groups(self.model))
        scheduler = self.make_scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the epoch's metrics so far."""
        progress = [metrics.progress() for metrics in (self.train_metrics, *self.heads())]
        checkpoint["epoch_metrics"] = gather(self.trainer, progress)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another network, before PyTorch does in many lines.

        Raises:
            CheckpointError: names or shapes differ, as the network's code was changed.
        """
        ours, saved = (
            {name: tuple(getattr(w, "shape", ())) for name, w in d.items()}
            for d in (self.state_dict(), checkpoint["state_dict"])
        )
        if differ := sorted(dict(ours.items() ^ saved.items())):
            names = first([name.removeprefix("model.") for name in differ], 3)
            raise CheckpointError(
                f"{LAST}: is of a network with other layers ({names}); force=true trains from scratch"
            )
        self._progress = checkpoint["epoch_metrics"][self.trainer.global_rank]

    def on_train_start(self) -> None:
        """Resume the epoch's metrics; only now is the module on its device."""
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        for metrics, progress in zip((self.train_metrics, *self.heads()), self._progress, strict=False):
            metrics.resume(progress)
        self._progress = []

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients; done here because Lightning's own clipping rejects fused optimizers under autocast."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
