"""What the tests of augmentation and normalisation share."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from bench.data.augment import Draws

QUICK = settings(max_examples=40, derandomize=True)
SEEDS, CHANNELS = st.integers(0, 2**31), st.sampled_from([1, 3])


def draws(n: int, seed: int = 0, epoch: int = 0, lasting: int = 0) -> Draws:
    return Draws(n, epoch, torch.Generator().manual_seed(seed), torch.Generator().manual_seed(lasting))


def random_images(n: int, side: int, channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, side, side, channels), dtype=torch.uint8, generator=generator)
