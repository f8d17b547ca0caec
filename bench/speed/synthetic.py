"""Random images in place of a data set: no folder need be there, and there are as many as one asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from omegaconf import DictConfig, open_dict

from bench import cli
from bench.data.dataset import Dataset
from bench.data.decode import Decoder


def source(decoder: Decoder, train: int, test: int = 10, classes: int = 10) -> Dataset:
    """``train`` and ``test`` images of the decoder's size in so many classes, always the same ones."""
    n = train + test
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, decoder.side, decoder.side, decoder.channels), dtype=np.uint8)
    return Dataset(
        pixels=pixels,
        labels=np.arange(n, dtype=np.int64) % classes,
        ids=np.arange(n).astype(str),
        classes=tuple(map(str, range(classes))),
        train=np.arange(train),
        val=np.arange(0),
        test=np.arange(train, n),
    )


def composed(settings: Sequence[str], train: int) -> DictConfig:
    """The configuration of training on ``train`` such images; ``settings`` as for ``bench``."""
    cfg = cli.composed(
        [
            "data=cifar10",
            "augment=cifar10",
            "data.name=synthetic",
            "data.protocol=speed",
            "data.val_size=null",
            *settings,
        ]
    )
    with open_dict(cfg):
        cfg.data.source = {
            "_target_": f"{__name__}.source", "_partial_": True, "train": train, "classes": "${data.num_classes}",
        }  # fmt: skip
    return cfg
