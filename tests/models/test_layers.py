"""The blocks that the architectures share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.config import PRETRAINED_FROM
from bench.models.layers import SMALL_BELOW, LocalResponseNorm, conv, geometry, init_kaiming


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(layer: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    return y.detach(), gradient


@settings(deadline=None, max_examples=60)
@given(
    channels=st.integers(1, 20),
    size=st.sampled_from([1, 3, 5, 7, 9]),
    alpha=st.floats(1e-5, 1.0),
    beta=st.just(0.75) | st.floats(0.1, 2.0),
    k=st.floats(0.5, 3.0),
    seed=st.integers(0, 2**31),
)
def test_local_response_norm_equals_pytorchs_in_value_and_gradient(channels, size, alpha, beta, k, seed):
    x, upstream = random(2, channels, 4, 3, seed=seed), random(2, channels, 4, 3, seed=seed + 1)
    ours = value_and_gradient(LocalResponseNorm(channels, size, alpha, beta, k), x, upstream)
    theirs = value_and_gradient(nn.LocalResponseNorm(size, alpha, beta, k), x, upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("beta", [0.75, 0.5])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_local_response_norm_passes_gradcheck(beta, size):
    layer = LocalResponseNorm(4, size, alpha=0.5, beta=beta, k=1.5).double()
    x = random(2, 4, 3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_local_response_norm_refuses_to_be_differentiated_twice(beta):
    x = random(1, 4, 2, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(LocalResponseNorm(4, 3, beta=beta)(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.pow(2).sum(), x)


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_local_response_norm_of_bf16_is_bf16_and_close_to_float32(beta):
    layer = LocalResponseNorm(16, 5, alpha=0.5, beta=beta, k=2.0)
    x, upstream = random(2, 16, 5, 5), random(2, 16, 5, 5, seed=1)
    half = value_and_gradient(layer, x.bfloat16(), upstream.bfloat16())
    assert [t.dtype for t in half] == [torch.bfloat16] * 2
    whole = value_and_gradient(layer, x.bfloat16().float(), upstream.bfloat16().float())
    torch.testing.assert_close(tuple(t.float() for t in half), whole, rtol=3e-2, atol=3e-2)


def test_local_response_norm_under_autocast_is_close_to_float32():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), LocalResponseNorm(16, 5, alpha=0.5, k=2.0))
    x = random(2, 3, 8, 8)
    net(x).pow(2).mean().backward()
    whole = net[0].weight.grad.clone()
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    y.float().pow(2).mean().backward()
    assert (net[0].weight.grad - whole).norm() < 0.02 * whole.norm()


def test_local_response_norm_keeps_channels_last():
    layer = LocalResponseNorm(8)
    x = random(2, 8, 5, 4).to(memory_format=torch.channels_last)
    upstream = random(2, 8, 5, 4, seed=1).to(memory_format=torch.channels_last)
    for tensor in value_and_gradient(layer, x, upstream):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_local_response_norm_leaves_its_input_as_it_is():
    x = random(2, 8, 3, 3)
    upstream = random(2, 8, 3, 3, seed=1)
    kept = x.clone(), upstream.clone()
    value_and_gradient(LocalResponseNorm(8, alpha=1.0), x, upstream)
    assert torch.equal(x, kept[0])
    assert torch.equal(upstream, kept[1])


def test_local_response_norm_has_no_parameters_and_no_state():
    layer = LocalResponseNorm(8)
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}


@pytest.mark.parametrize("size", [-1, 0, 2, 4])
def test_local_response_norm_of_even_size_raises_naming_it(size):
    with pytest.raises(ValueError, match=f"size={size}"):
        LocalResponseNorm(8, size=size)


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
    assert [type(layer) for layer in layers] == [nn.Conv2d, *norm, nn.ReLU]
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
