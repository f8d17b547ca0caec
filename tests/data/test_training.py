"""The data module under Lightning's Trainer: resumed, and in several processes."""

import json
import os
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from processes import begin, finish

from bench import distributed
from bench.data.augment import ColorJitter, CutMix, HorizontalFlip, RandomCrop
from bench.data.dataset import Dataset
from bench.data.decode import Decoder
from bench.data.module import ImageData
from bench.data.normalize import ChannelNormalize

N, TEST = 150, 37  # of which the last batches are odd, but leave two samples to each of two processes


def source(decoder: Decoder) -> Dataset:
    """Random images; a sample's label is its position, so that it can be told apart."""
    shape = (N, decoder.side, decoder.side, decoder.channels)
    return Dataset(
        pixels=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        labels=np.arange(N),
        ids=np.arange(N).astype(str),
        classes=tuple(map(str, range(N))),
        train=np.arange(N - TEST - 10),
        val=np.arange(N - TEST - 10, N - TEST),
        test=np.arange(N - TEST, N),
    )


def make(mix: bool = False, batch_size: int = 16) -> ImageData:
    augment = [RandomCrop(8, 2), HorizontalFlip(), ColorJitter(), *([CutMix()] if mix else [])]
    return ImageData(
        source, Decoder("unused", 8, 3), 8, N, None, batch_size, augment=augment, normalize=ChannelNormalize(), seed=3
    )


class Watcher(L.LightningModule):
    """Learns nothing and notes what it is given: (stage, epoch, labels, sum of pixels) of each batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def note(self, stage, batch):
        self.seen.append((stage, self.current_epoch, batch.labels.tolist(), batch.images.double().sum().item()))

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(epochs: int, **more) -> L.Trainer:
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    return L.Trainer(accelerator="cpu", max_epochs=epochs, use_distributed_sampler=False, **quiet, **more)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated", "ignore:.*does not have many workers")
def test_a_resumed_training_sees_the_batches_of_one_that_went_through(tmp_path):
    through, before, after = Watcher(), Watcher(), Watcher()
    trainer(4).fit(through, datamodule=make(mix=True))
    stopped = trainer(2)
    stopped.fit(before, datamodule=make(mix=True))
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    trainer(4).fit(after, datamodule=make(mix=True), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    train = [[batch for batch in watcher.seen if batch[0] == "train"] for watcher in (through, before, after)]
    assert {batch[1] for batch in train[2]} == {2, 3}
    assert train[1] + train[2] == train[0]


def one_of_two(rank: int, port: int, folder: Path) -> None:
    """Train and test as one process of two, and write what it has seen."""
    place = {"LOCAL_RANK": rank, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    watcher, data = Watcher(), make()
    run = trainer(2, devices=2, strategy="ddp", num_sanity_val_steps=0)
    run.fit(watcher, datamodule=data)
    run.test(watcher, data, verbose=False)
    (folder / str(rank)).write_text(json.dumps(watcher.seen))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated", "ignore:.*does not have many workers")
def test_two_processes_see_every_sample_once_an_epoch_in_training_and_in_evaluation(tmp_path):
    port = distributed.free_port()
    both = [begin(one_of_two, rank, port, tmp_path) for rank in (0, 1)]
    assert [finish(process) for process in both] == [0, 0]
    ranks = [json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1)]
    alone = Watcher()
    run = trainer(2, num_sanity_val_steps=0)
    run.fit(alone, datamodule=make(batch_size=32))
    run.test(alone, make(batch_size=32), verbose=False)
    assert len(ranks[0]) == len(ranks[1]) == len(alone.seen)
    for one, other, whole in zip(*ranks, alone.seen, strict=True):
        assert one[:2] == other[:2] == list(whole[:2])
        assert one[2] + other[2] == whole[2]  # the same samples in the same order, shared out
        assert one[3] + other[3] == pytest.approx(whole[3], abs=0.01)  # the same pixels
    data = make()
    for stage, index in (("train", data.train), ("val", data.val), ("test", data.test)):
        epochs = 1 if stage == "test" else 2
        labels = [label for seen in ranks for batch in seen if batch[0] == stage for label in batch[2]]
        assert sorted(labels) == sorted(index.tolist() * epochs)
