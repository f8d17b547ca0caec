"""A network that waits, for tests of what happens while cells train."""

import time
from pathlib import Path
from typing import Any

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
