"""Parameter groups and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bench.errors import ConfigError
from bench.rules import POSITIVE, check_value, number

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: weights, which decay, and what has one value per channel, which does not: biases, normalisation and
    LeNet-5's subsampling. (The papers' Caffe models decay no biases.) Frozen parameters are in neither.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    return [group for group in ({"params": weights}, {"params": others, "weight_decay": 0.0}) if group["params"]]


SHARE = number("a fraction of the steps, in [0, 1]", lambda v: 0 <= v <= 1)
FALL = number("above 0, 1 at most", lambda v: 0 < v <= 1)


def _half_cosine(done: float) -> float:
    """Falls from 1 to 0 as ``done`` rises from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def one_cycle(optimizer: Optimizer, total_steps: int, warmup: float = 0.4) -> LRScheduler:
    """Half a cosine up from lr/25 over the ``warmup`` fraction of the steps, then down to 0: the rates of Smith, Topin
    2018, who have straight lines, and momentum that falls and rises.
    """
    check_value("scheduler.warmup", warmup, SHARE)
    peak = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < peak:
            return 1 - 0.96 * _half_cosine(step / peak)
        return _half_cosine((step - peak) / max(1, total_steps - peak))

    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> LRScheduler:
    """Linear warmup over the ``warmup`` fraction of the steps, half a cosine down to 0 (Loshchilov, Hutter 2017)."""
    check_value("scheduler.warmup", warmup, SHARE)
    first = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < first:
            return (step + 1) / first
        return _half_cosine((step - first) / max(1, total_steps - first))

    return LambdaLR(optimizer, factor)


def step(
    optimizer: Optimizer, total_steps: int, milestones: tuple[float, ...] = (0.5, 0.75), gamma: float = 0.1
) -> LRScheduler:
    """Multiply the rate by ``gamma`` at each milestone, a fraction of the steps (Krizhevsky et al. 2012, section 5)."""
    if not isinstance(milestones, Sequence) or isinstance(milestones, str):
        raise ConfigError(f"scheduler.milestones={milestones}: must be a list of fractions of the steps")
    for share in milestones:
        check_value("scheduler.milestones", share, SHARE)
    check_value("scheduler.gamma", gamma, FALL)
    return LambdaLR(optimizer, lambda step: gamma ** sum(step >= share * total_steps - 1e-9 for share in milestones))


def staircase(optimizer: Optimizer, total_steps: int, every: float = 0.1, gamma: float = 0.5) -> LRScheduler:
    """Multiply the rate by ``gamma`` after every ``every``, a fraction of the steps, above 1 for never (Szegedy et al.
    2015, section 6: 4 % less every 8 epochs).
    """
    check_value("scheduler.every", every, POSITIVE)
    check_value("scheduler.gamma", gamma, FALL)
    return LambdaLR(optimizer, lambda step: gamma ** int(step / (every * total_steps) + 1e-9))


def poly(optimizer: Optimizer, total_steps: int, power: float = 0.5) -> LRScheduler:
    """Polynomial decay to 0: the rate times the remaining fraction of the steps to the power ``power``."""
    check_value("scheduler.power", power, POSITIVE)
    return LambdaLR(optimizer, lambda step: (1 - min(step, total_steps) / total_steps) ** power)


def constant(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """A constant rate."""
    return LambdaLR(optimizer, lambda _: 1.0)
