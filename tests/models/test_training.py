"""Architectures leave chance as they are initialised: trained on real photographs, the loss falls."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from networks import BETWEEN
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bench import machine
from bench.explain import options
from bench.optim import parameter_groups

SLOW = (
    "vgg19",  # 300 steps, two minutes; it shares its code with VGG-11, and VGG-19 with batch norm is here
    # large networks whose code and initialisation are timm's
    "timm/inception_resnet_v2", "timm/inception_v4", "timm/nasnet_a", "timm/resnet50", "timm/resnext50_32x4d",
    "timm/wide_resnet50_2",
)  # fmt: skip
CONFIGS = [name for name in options("model") if name not in (*BETWEEN, *SLOW)]
STEPS = 60  # at most; of AdamW at the configured rate, each on all images


@pytest.fixture(scope="module")
def photographs() -> tuple[Tensor, Tensor]:
    """10 images of CIFAR-10, (10, 3, 32, 32) normalised, and their labels: one of each class."""
    folder = Path(os.environ.get("BENCH_DATA", "nowhere")) / "cifar10/train"
    if not folder.is_dir():
        pytest.skip("needs cifar10/train as image files in BENCH_DATA")
    files = [sorted(label.iterdir())[0] for label in sorted(folder.iterdir())]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) for file in files])
    mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    images = torch.from_numpy((pixels - mean) / std).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last), torch.arange(10)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_falls_below_half_its_first_value_and_half_of_chance(name, photographs, composed):
    images, labels = photographs
    size = 107 if name == "timm/inception_v3" else 32  # the least it takes
    images = F.interpolate(images, size)
    cfg = composed(f"model={name}", "data=cifar10", f"data.image_size={size}")
    torch.manual_seed(0)
    net = instantiate(cfg.model.net).to(memory_format=torch.channels_last).train()
    optimizer = instantiate(cfg.optimizer)(parameter_groups(net))
    bf16 = machine.precision("auto", torch.device("cpu")) == "bf16-mixed"
    losses: list[float] = []
    for _ in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = net(images)
            loss = F.cross_entropy(output.logits, labels)
            total = loss + 0.3 * sum(F.cross_entropy(logits, labels) for logits in output.aux)
        losses.append(loss.item())
        recent = sum(losses[-5:]) / 5  # dropout makes single steps differ
        if len(losses) > 5 and recent < min(losses[0], math.log(10)) / 2:
            break
        total.backward()
        if len(losses) == 1:
            assert next(net.parameters()).grad.abs().max() > 0, "gradients do not reach the first layer"
        torch.nn.utils.clip_grad_norm_(net.parameters(), cfg.trainer.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    else:
        pytest.fail(f"loss {losses[0]:.2f} at first, {recent:.2f} after {len(losses)} steps")
    print(f"{name}: {len(losses)} steps")
