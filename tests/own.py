"""Networks and data of one's own, with flaws that tests need."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.data.dataset import Dataset
from bench.data.decode import Decoder
from bench.data.sources import digits
from bench.models.layers import Output
from bench.models.lenet import LeNet


class Gated(LeNet):
    """LeNet whose training stops before its third batch until the file ``gate`` is there."""

    def __init__(self, gate: str, **net: Any):
        super().__init__(**net)
        self.gate = Path(gate)
        self.batches = 0

    def forward(self, images: Any) -> Output:
        self.batches += self.training
        while self.training and self.batches > 2 and not self.gate.exists():
            time.sleep(0.05)
        return super().forward(images)


class Changing(LeNet):
    """LeNet, with one more weight once its code is changed."""

    changed = False

    def __init__(self, **net: Any):
        super().__init__(**net)
        if self.changed:
            self.scale = nn.Parameter(torch.ones(1))


def endless(decoder: Decoder, began: str, **settings: Any) -> Dataset:
    """Digits that take an hour to decode, begun once the file ``began`` is there."""
    Path(began).touch()
    time.sleep(3600)
    return digits(decoder, **settings)


def lost_on_the_second(decoder: Decoder, **settings: Any) -> Dataset:
    """Digits, which the second of several processes cannot read."""
    if os.environ.get("LOCAL_RANK") == "1":
        raise ValueError("no digits here")
    return digits(decoder, **settings)
