"""Parameter groups and the schedules' values."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench import optim
from bench.errors import ConfigError

LR = 0.1


def rates(schedule, total_steps: int, lr: float = LR, **arguments) -> list[float]:
    """The learning rate of each step, and what is left behind the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedule(optimizer, total_steps, **arguments)
    seen = []
    for _ in range(total_steps - 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("schedule", [optim.one_cycle, optim.cosine])
def test_without_a_warm_up_the_first_step_has_the_peak_rate_and_the_next_less(schedule):
    first, second, *_ = rates(schedule, 100, warmup=0.0)
    assert first == LR
    assert second == pytest.approx(LR * 0.5 * (1 + math.cos(math.pi / 100)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)
        self.tied = self.linear


def test_weights_decay_biases_and_normalisation_do_not_and_each_comes_once():
    net = Net()
    optimizer = torch.optim.SGD(optim.parameter_groups(net), lr=LR, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "conv.weight": 0.5,
        "conv.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "linear.weight": 0.5,
        "linear.bias": 0.0,
    }
    assert {name: decay[id(p)] for name, p in net.named_parameters()} == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(expected)


def test_a_step_without_gradient_shrinks_weights_only():
    net = Net()
    optimizer = torch.optim.SGD(optim.parameter_groups(net), lr=LR, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        factor = 1 - LR * 0.5 if p.ndim > 1 else 1
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_groups_without_parameters_are_left_out():
    groups = optim.parameter_groups(nn.Linear(2, 2, bias=False))
    assert len(groups) == 1
    assert "weight_decay" not in groups[0]


@settings(max_examples=20)
@given(total_steps=st.integers(10, 120), warmup=st.floats(0.1, 0.9))
def test_one_cycle_rises_to_its_peak_at_the_warmup_share_and_falls_to_near_0(total_steps, warmup):
    seen = rates(optim.one_cycle, total_steps, warmup=warmup)
    peak = seen.index(max(seen))
    assert abs(peak - warmup * total_steps) <= 1
    assert seen[0] == pytest.approx(LR / 25)
    assert seen[peak] == pytest.approx(LR)
    assert all(a < b for a, b in pairwise(seen[: peak + 1]))
    assert all(a > b for a, b in pairwise(seen[peak:]))
    one_step_short_of_0 = (1 - math.cos(math.pi / (total_steps - peak))) / 2
    assert seen[-1] == pytest.approx(LR * one_step_short_of_0)


def test_one_cycle_values():
    seen = rates(optim.one_cycle, 200, warmup=0.25)
    assert [seen[step] for step in (0, 25, 50, 100, 125, 150)] == pytest.approx(
        [LR / 25, (LR / 25 + LR) / 2, LR, 0.75 * LR, LR / 2, LR / 4]
    )
    assert 0 < seen[199] < 1e-3 * LR


def test_one_cycle_keeps_each_groups_rate_and_leaves_momentum_alone():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.02)]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    scheduler = optim.one_cycle(optimizer, 40, warmup=0.5)
    for _ in range(20):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.02])
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_cosine_values():
    seen = rates(optim.cosine, 100, warmup=0.1)
    assert seen[:10] == pytest.approx([LR * (step + 1) / 10 for step in range(10)])
    assert seen[10] == pytest.approx(LR)
    assert seen[55] == pytest.approx(LR / 2)
    assert seen[10 + 30] == pytest.approx(LR * (1 + math.cos(math.pi / 3)) / 2)
    assert 0 < seen[99] < 1e-3 * LR


@pytest.mark.parametrize("schedule", [optim.one_cycle, optim.cosine])
def test_rates_stay_at_0_behind_the_last_step(schedule):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = schedule(optimizer, 10)
    for done in range(1, 15):
        optimizer.step()
        scheduler.step()
        assert (optimizer.param_groups[0]["lr"] == 0) == (done >= 10)


@pytest.mark.parametrize("schedule", [optim.one_cycle, optim.cosine, optim.step, optim.constant])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 4, 5])
def test_a_few_steps_are_a_schedule_too(schedule, total_steps):
    seen = rates(schedule, total_steps)
    assert all(0 < rate <= LR for rate in seen)
    assert total_steps == 1 or max(seen) == pytest.approx(LR)


def test_step_values():
    seen = rates(optim.step, 100)
    assert seen == pytest.approx([LR] * 50 + [LR / 10] * 25 + [LR / 100] * 25)
    seen = rates(optim.step, 10, milestones=(0.25,), gamma=0.5)
    assert seen == pytest.approx([LR] * 3 + [LR / 2] * 7)


@pytest.mark.parametrize(
    ("schedule", "arguments"),
    [
        (optim.one_cycle, {"warmup": "half"}),
        (optim.cosine, {"warmup": True}),
        (optim.step, {"milestones": 0.5}),
        (optim.step, {"milestones": "0.5"}),
        (optim.step, {"milestones": [0.5, 2]}),
        (optim.step, {"gamma": -0.1}),
        (optim.staircase, {"gamma": 10}),
        (optim.staircase, {"every": 0}),
        (optim.poly, {"power": "high"}),
    ],
)
def test_what_makes_no_schedule_is_refused_by_name_and_value(schedule, arguments):
    ((name, value),) = arguments.items()
    told = value[-1] if isinstance(value, list) else value
    with pytest.raises(ConfigError, match=rf"^scheduler\.{name}={told}: must be "):
        rates(schedule, 10, **arguments)


def test_constant_is_constant():
    assert rates(optim.constant, 20) == [LR] * 20


def test_a_staircase_goes_down_after_each_share_of_the_steps():
    seen = rates(optim.staircase, 10, every=0.3, gamma=0.5)
    assert seen == pytest.approx([LR] * 3 + [LR / 2] * 3 + [LR / 4] * 3 + [LR / 8])


def test_a_staircase_whose_steps_are_longer_than_the_training_is_flat():
    assert rates(optim.staircase, 10, every=3.6, gamma=0.1) == [LR] * 10


@given(total=st.integers(1, 3000), parts=st.integers(1, 50))
@settings(max_examples=60)
def test_a_staircase_has_its_steps_where_they_are_in_whole_numbers(total, parts):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    factor = optim.staircase(optimizer, total * parts, every=1 / parts, gamma=0.5).lr_lambdas[0]
    for part in range(parts):
        assert factor(part * total) == 0.5**part
        assert factor((part + 1) * total - 1) == 0.5**part


@given(total=st.integers(1, 300), at=st.integers(1, 99))
@settings(max_examples=60)
def test_milestones_are_where_they_are_in_whole_numbers(total, at):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    factor = optim.step(optimizer, 100 * total, milestones=(at / 100,), gamma=0.5).lr_lambdas[0]
    assert (factor(at * total - 1), factor(at * total)) == (1, 0.5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_poly_falls_by_a_power_of_what_is_left(power):
    expected = [LR * (1 - step / 8) ** power for step in range(8)]
    assert rates(optim.poly, 8, power=power) == pytest.approx(expected)


@pytest.mark.parametrize(("schedule", "argument"), [(optim.staircase, "every"), (optim.poly, "power")])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_share_or_power_that_is_not_above_zero_is_named(schedule, argument, value):
    with pytest.raises(ConfigError, match=f"scheduler.{argument}={value}"):
        rates(schedule, 8, **{argument: value})
