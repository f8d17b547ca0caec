"""The blocks that the architectures share."""

import pytest
import torch
from networks import random
from torch import nn

from bench.config import PRETRAINED_FROM
from bench.models.layers import SMALL_BELOW, FitTo, conv, geometry, init_kaiming
from bench.models.winograd import Conv2d


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [(8, "small"), (32, "small"), (64, "small"), (95, "small"), (96, "paper"), (224, "paper")],
)
def test_geometry_is_that_of_the_paper_from_96_pixels_on(image_size, expected):
    assert geometry(image_size) == expected
    assert SMALL_BELOW == PRETRAINED_FROM


@pytest.mark.parametrize("batch_norm", [False, True])
def test_conv_has_a_bias_or_batch_norm(batch_norm):
    layers = conv(4, 6, 3, batch_norm=batch_norm, stride=2, padding=1)
    norm = [nn.BatchNorm2d] if batch_norm else []
    assert [type(layer) for layer in layers] == [Conv2d, *norm, nn.ReLU]
    assert (layers[0].bias is None) == batch_norm
    assert nn.Sequential(*layers)(random(2, 4, 8, 8)).shape == (2, 6, 4, 4)


def test_init_draws_weights_by_fan_in_and_classifiers_with_a_std_of_a_hundredth():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 64, 5, groups=2), nn.Linear(300, 400), nn.Linear(400, 100))
    init_kaiming(net, [net[2]])
    assert net[0].weight.std().item() == pytest.approx((2 / (4 * 5 * 5)) ** 0.5, rel=0.05)
    assert net[1].weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.05)
    assert net[2].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert all(layer.bias.eq(0).all() for layer in net)


@pytest.mark.parametrize("shape", [(7, 7), (4, 6), (2, 9), (3, 1)])
@pytest.mark.parametrize("side", [2, 3, 7])
def test_pooling_by_matrices_is_pytorchs_average(side, shape):
    x = random(2, 3, *shape).requires_grad_()
    ours, theirs = FitTo(side).pooled_by_matrices(x), nn.functional.adaptive_avg_pool2d(x, side)
    assert torch.allclose(ours, theirs, atol=1e-6)
    weights = random(2, 3, side, side)
    one, other = (torch.autograd.grad((made * weights).sum(), x)[0] for made in (ours, theirs))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("side", "lacking"), [(3, True), (2, True), (8, False), (4, False)])
def test_apple_gpus_lack_uneven_pooling(monkeypatch, side, lacking):
    class OnApples(torch.Tensor):
        is_mps = True

    x, used = random(1, 2, 8, 8 if side != 2 else 7), []
    pool = FitTo(side)
    monkeypatch.setattr(pool, "pooled_by_matrices", lambda x: used.append(side))
    pool(x.as_subclass(OnApples))
    assert bool(used) == lacking


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pooling_is_deterministic_on_a_gpu_if_asked_for(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x = random(2, 3, 7, 7).cuda().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        FitTo(3)(x).sum().backward()  # raises where there is no such algorithm
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad is not None
