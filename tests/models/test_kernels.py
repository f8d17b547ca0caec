"""Layers made anew for CPUs: against PyTorch's, in value and gradient."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.models.kernels import Dropout, LocalResponseNorm, MaxPool2x2


def value_and_gradient(layer: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    return y.detach(), gradient


@settings(max_examples=60)
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


@contextlib.contextmanager
def casting_on_gpus():
    """``torch.autocast`` on a GPU, which refuses to be where none is."""
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", before)


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_local_response_norm_under_a_gpus_autocast_keeps_the_dtype(beta):
    with FakeTensorMode(), casting_on_gpus():  # tensors without values, which need no GPU
        layer = LocalResponseNorm(64, beta=beta).to("cuda")
        x = torch.empty(2, 64, 8, 8, dtype=torch.bfloat16, device="cuda")
        assert x.rsqrt().dtype == x.pow(-beta).dtype == torch.float32  # what the layer must not let happen
        assert layer(x).dtype == torch.bfloat16


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


def in_channels_last(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return random(*shape, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


@settings(max_examples=60)
@given(
    channels=st.integers(1, 9),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    last=st.booleans(),
    levels=st.sampled_from([2, 5, 1000]),  # few levels: many equal values in a window
    seed=st.integers(0, 2**31),
)
def test_max_pooling_equals_pytorchs_in_value_and_gradient(channels, height, width, dtype, last, levels, seed):
    memory = torch.channels_last if last else torch.contiguous_format
    x = (random(3, channels, height, width, seed=seed) * levels).round().to(dtype).contiguous(memory_format=memory)
    upstream = random(3, channels, height // 2, width // 2, seed=seed + 1, dtype=torch.float32).to(dtype)
    ours, theirs = (value_and_gradient(layer, x, upstream) for layer in (MaxPool2x2(), nn.MaxPool2d(2)))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_max_pooling_of_few_channels_is_not_pytorchs_kernel_and_keeps_channels_last():
    x = in_channels_last(2, 6, 8, 8).requires_grad_()
    pool = MaxPool2x2()
    y = pool(x)
    assert "MaxPool2x2" in type(y.grad_fn).__name__
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert pool(x[0]).shape == (6, 4, 4)
    for others in (in_channels_last(2, 8, 8, 8), in_channels_last(2, 6, 7, 8), in_channels_last(2, 6, 8, 7)):
        assert "MaxPool2DWithIndices" in type(pool(others.requires_grad_()).grad_fn).__name__
    assert "MaxPool2DWithIndices" in type(pool.eval()(x).grad_fn).__name__


def test_max_pooling_passes_gradcheck():
    x = random(2, 3, 4, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(MaxPool2x2(), (x,))


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_with_its_probability_and_scales_as_pytorch_does(p, dtype):
    torch.manual_seed(0)
    n = 400_001  # not a multiple of the four values a number decides about
    x = torch.ones(n, dtype=dtype).requires_grad_()
    y = Dropout(p)(x)
    assert y.dtype == dtype
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5)
    kept = y[y != 0]
    theirs = nn.Dropout(p)(x)
    assert kept.unique().tolist() == pytest.approx(theirs[theirs != 0].unique().tolist(), rel=1e-4)
    assert y.double().mean().item() == pytest.approx(1, abs=4e-3 + 5 * (p / (1 - p) / n) ** 0.5)  # bf16 has 8 bits
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)


def test_dropouts_values_are_independent_of_their_neighbours():
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(400_000)) == 0).double() - 0.5
    for apart in (1, 2, 3, 4, 8):
        assert abs((dropped[:-apart] * dropped[apart:]).mean().item() * 4) < 5 / 400_000**0.5


def test_dropout_of_a_seed_is_the_same_again_and_of_the_next_call_another():
    layer, x = Dropout(0.5), in_channels_last(4, 3, 5, 5)
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append((layer(x), layer(x)))
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[0][1])
    assert draws[0][0].stride() == x.stride()


@pytest.mark.parametrize("of", [lambda x: x[:, ::2], lambda x: x[:, :1].expand(-1, 3, -1, -1), lambda x: x[:0]])
def test_dropout_takes_views_and_empty_tensors(of):
    x = of(torch.ones(4, 6, 5, 5))
    y = Dropout(0.5)(x)
    assert y.shape == x.shape
    assert set(y.unique().tolist()) <= {0.0, 2.0}


def test_dropout_without_training_or_chance_is_pytorchs():
    x = random(2, 30)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    y = x.clone()
    assert Dropout(0.5, inplace=True)(y) is y
