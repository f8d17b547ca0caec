"""Training on the data sets and augmentations that there are."""

import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from common import NOISE, SHORT
from PIL import Image

from bench import train
from bench.data.loader import BatchLoader
from bench.errors import ConfigError

QUIET = (*SHORT, "progress=none")


def test_cifar10_from_an_image_folder_tree_is_trained_with_its_augmentation(composed, tmp_path):
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("test", 2)):
        for label in range(10):
            folder = tmp_path / "images/cifar10" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    cfg = composed(
        "data=cifar10", "data.source.sizes=[40,20]", "data.val_size=10", f"paths.data={tmp_path / 'images'}",
        "trainer.max_epochs=2", "trainer.accelerator=cpu", "progress=none",
    )  # fmt: skip
    record = train.run(cfg)
    assert record.status == "ok", record.error
    assert (record.train_size, record.val_size, record.test_size) == (30, 10, 20)
    assert record.protocol == "own-40-20-val10"
    assert record.skipped_images == 0
    ids = np.load(tmp_path / "results/runs" / record.run_id / "predictions.npz")["ids"]
    assert ids[0] == "test/class0/0"


@pytest.fixture
def flowers(tmp_path) -> Path:
    """A folder of images of 2 kinds, 12 each, one of which cannot be read."""
    rng = np.random.default_rng(0)
    for kind, base in (("daisy", 0), ("rose", 100)):
        (tmp_path / "flowers/train" / kind).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(base, base + 100, (70, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"flowers/train/{kind}/{i}.jpg")
    (tmp_path / "flowers/train/rose/7.jpg").write_bytes(b"no image")
    return tmp_path


def test_a_folder_of_images_is_trained_on_and_broken_ones_are_counted(composed, flowers):
    overrides = (
        "data=folder", "data.name=flowers", f"paths.data={flowers}", "data.image_size=32", "trainer.max_epochs=1",
        "trainer.accelerator=cpu", "progress=none", "augment=[resized_crop,flip,color_jitter,cutout,mixup]",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"flowers/train/rose/7\.jpg: not a readable image"):
        train.run(composed(*overrides))
    record = train.run(composed(*overrides, "data.on_error=skip"))
    assert record.status == "ok", record.error
    assert (record.train_size, record.val_size, record.test_size, record.skipped_images) == (16, 2, 5, 1)
    assert record.dataset == "flowers"
    assert record.config["data"]["num_classes"] == 2


class Steps(L.Callback):
    """Notes what a batch goes through in training."""

    def on_train_start(self, trainer, pl_module):
        data = trainer.datamodule
        self.names = [type(step).__name__ for step in (*data.augmented.steps, data.mix)]


@pytest.mark.parametrize(
    ("augment", "transforms"),
    [
        ("mixup", {"Mixup"}),
        ("cutmix", {"CutMix"}),
        ("[crop,alternating_flip,lighting]", {"RandomCrop", "AlternatingFlip", "Lighting"}),
        ("[color_jitter,cutout]", {"ColorJitter", "Cutout"}),
    ],
)
@pytest.mark.parametrize(
    ("normalize", "applied"),
    [("channel", "ChannelNormalize"), ("pixel_mean", "PixelMeanNormalize"), ("zca", "ZcaNormalize")],
)
def test_every_augmentation_and_normalisation_trains(composed, augment, transforms, normalize, applied):
    overrides = (f"augment={augment}", f"augment/normalize={normalize}", "data.image_size=28", "data.in_channels=1")
    steps = Steps()
    record = train.run(composed("model=lenet", *QUIET, *overrides), watchers=[steps])
    assert record.status == "ok", record.error
    assert math.isfinite(record.metrics["train"]["loss"])
    assert set(steps.names) - {"partial", "NoneType"} == {*transforms, applied}


def test_each_epoch_has_its_own_draws_and_the_sanity_check_none(composed, monkeypatch):
    drawn, draw = [], BatchLoader.draw

    def watched(loader):
        drawn.append(loader.sampler and loader.sampler.epoch)
        return draw(loader)

    monkeypatch.setattr(BatchLoader, "draw", watched)
    train.run(composed("model=lenet", *QUIET, "trainer.max_epochs=3", "trainer.num_sanity_val_steps=1"))
    assert [epoch for epoch in drawn if epoch is not None] == [0, 1, 2]


def test_a_network_of_any_size_trains_on_smaller_images(composed, noise):
    sizes = ("data.image_size=32", "data.train_image_size=24", "augment=resized_crop")
    record = train.run(composed("model=nin_bn", *NOISE, noise, "progress=none", *sizes))
    assert record.status == "ok"
    with pytest.raises(ConfigError, match=r"^data\.train_image_size=24: lenet fails on such images"):
        train.run(composed("model=lenet", *QUIET, *sizes))


def test_augmented_training_leaves_evaluation_alone(composed):
    def build(augment):
        cfg = composed(f"augment={augment}", *QUIET)
        return train.build(cfg, train.config.check(cfg), torch.device("cpu"))[0]

    data, plain = build("crop_flip"), build("none")
    for loader in ("val_dataloader", "test_dataloader"):
        for ours, theirs in zip(getattr(data, loader)(), getattr(plain, loader)(), strict=True):
            assert torch.equal(ours.images, theirs.images)
    ours, theirs = (next(iter(part.train_dataloader())) for part in (data, plain))
    assert torch.equal(ours.labels, theirs.labels)
    assert not torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize("last", [True, False])
def test_images_and_weights_have_the_memory_format_asked_for(composed, last):
    cfg = composed("model=nin", "data.in_channels=3", f"trainer.channels_last={str(last).lower()}", *QUIET)
    data, module = train.build(cfg, train.config.check(cfg), torch.device("cpu"))
    images = next(iter(data.train_dataloader())).images
    weights = [p for p in module.parameters() if p.ndim == 4 and p.shape[-1] > 1]
    for tensor in (images, *weights):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == last
