"""Convolutions with fewer multiplications: against PyTorch's, in value and gradient."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.models import winograd
from bench.models.vgg import VGG
from bench.models.winograd import Conv2d, as_pytorchs


def value_and_gradients(layer: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    return (y.detach(), *torch.autograd.grad(y, (x, *layer.parameters()), upstream))


def fast(layer: nn.Conv2d):
    """The layer as a function that takes fewer multiplications, whatever its size."""

    def run(x: Tensor) -> Tensor:
        return winograd._Convolution.apply(x, layer.weight, layer.bias, layer.groups)

    return run


@pytest.fixture
def chosen(monkeypatch):
    """The batches in which a layer took fewer multiplications, by their number of images."""
    batches: list[int] = []
    apply = winograd._Convolution.apply
    monkeypatch.setattr(winograd._Convolution, "apply", lambda x, *more: batches.append(len(x)) or apply(x, *more))
    return batches


SHAPES = dict(
    images=st.integers(1, 5),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    groups=st.integers(1, 3),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    kernel=st.sampled_from([3, 5]),
    bias=st.booleans(),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=80)
@given(**SHAPES)
def test_values_and_gradients_are_those_of_pytorch(
    images, inputs, outputs, groups, height, width, kernel, bias, layout, seed
):
    c, k = inputs * groups, outputs * groups
    torch.manual_seed(seed)
    layer = nn.Conv2d(c, k, kernel, padding=kernel // 2, groups=groups, bias=bias).double().to(memory_format=layout)
    x = random(images, c, height, width, dtype=torch.float64, seed=seed).contiguous(memory_format=layout)
    upstream = random(images, k, height, width, dtype=torch.float64, seed=seed + 1)
    ours = copy.deepcopy(layer)
    ours.forward = fast(ours)
    wanted = value_and_gradients(layer, x, upstream)
    torch.testing.assert_close(value_and_gradients(ours, x, upstream), wanted, rtol=1e-10, atol=1e-10)


@settings(max_examples=20)
@given(chunk=st.integers(1, 50_000), images=st.integers(1, 9))
def test_images_may_be_taken_in_any_number_of_chunks(chunk, images):
    layer, x = nn.Conv2d(4, 6, 3, padding=1).double(), random(images, 4, 9, 7, dtype=torch.float64)
    upstream, before = random(images, 6, 9, 7, dtype=torch.float64, seed=1), winograd.CHUNK
    wanted = value_and_gradients(layer, x, upstream)
    layer.forward = fast(layer)
    try:
        winograd.CHUNK = chunk
        torch.testing.assert_close(value_and_gradients(layer, x, upstream), wanted, rtol=1e-10, atol=1e-10)
    finally:
        winograd.CHUNK = before


@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 2), (5, 1)])
def test_it_passes_gradcheck(kernel, groups):
    layer = nn.Conv2d(2, 4, kernel, padding=kernel // 2, groups=groups).double()
    x = random(2, 2, 5, 3, dtype=torch.float64).requires_grad_()
    arguments = (x, layer.weight, layer.bias, groups)
    assert torch.autograd.gradcheck(winograd._Convolution.apply, arguments)


def test_it_refuses_to_be_differentiated_twice():
    x = random(1, 1, 4, 4).requires_grad_()
    y = winograd._Convolution.apply(x, random(1, 1, 3, 3), None, 1)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(gradient.pow(2).sum(), x)


def test_the_transforms_are_those_of_the_paper_but_for_scale():
    # Lavin, Gray 2016, section 4.1: F(2×2, 3×3), whose rows may be scaled if the other transforms' are, too
    bt, g, at = winograd.transforms(2, 3, torch.float64)
    paper_bt = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=torch.float64)
    paper_g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    paper_at = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=torch.float64)
    taps = [torch.einsum("op,pk,pi->oki", *three) for three in ((at, g, bt), (paper_at, paper_g, paper_bt))]
    torch.testing.assert_close(*taps)
    wanted = torch.zeros(2, 3, 4, dtype=torch.float64)
    for o in range(2):
        for k in range(3):
            wanted[o, k, o + k] = 1  # output o is the sum over k of kernel k times input o + k
    torch.testing.assert_close(taps[0], wanted)


@pytest.mark.parametrize(
    ("side", "kernel", "m"),
    [(2, 3, 2), (3, 3, 4), (4, 3, 4), (6, 3, 6), (7, 3, 4), (8, 3, 4), (12, 3, 6), (32, 3, 4), (15, 5, 4), (2, 5, 2)],
)
def test_tiles_are_as_large_as_saves_most(side, kernel, m):
    tiles = winograd.tiling(side, side, kernel)
    assert tiles.m == m
    assert (tiles.rows, tiles.columns) == (-(-side // m),) * 2


@pytest.mark.parametrize(("kernel", "side", "most"), [(3, 8, 6e-6), (3, 12, 2e-5), (3, 16, 6e-6), (5, 16, 2e-5)])
def test_rounding_errors_are_far_below_those_of_bf16(kernel, side, most, chosen):
    layer, x = Conv2d(96, 128, kernel, padding=kernel // 2), random(16, 96, side, side)
    upstream = random(16, 128, side, side, seed=1)
    exact = value_and_gradients(copy.deepcopy(layer).double(), x.double(), upstream.double())
    half = value_and_gradients(copy.deepcopy(layer).bfloat16(), x.bfloat16(), upstream.bfloat16())
    ours = value_and_gradients(layer, x, upstream)
    assert chosen == [16]
    for value, rough, right in zip(ours, half, exact, strict=True):
        scale = right.abs().max()
        assert (value - right).abs().max() < most * scale
        assert (rough.double() - right).abs().max() > 5e-4 * scale


def test_large_layers_in_training_take_fewer_multiplications(chosen):
    layer, x = Conv2d(64, 64, 3, padding=1), random(16, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    assert chosen == [16]


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (dict(in_channels=64, out_channels=64, kernel_size=1), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=7, padding=3), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=(3, 1), padding=(1, 0)), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=3), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=3, padding=1, stride=2), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=3, padding="same", dilation=2), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=3, padding=1, padding_mode="reflect"), 8),
        (dict(in_channels=16, out_channels=64, kernel_size=3, padding=1), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=3, padding=1, groups=4), 8),
        (dict(in_channels=64, out_channels=64, kernel_size=3, padding=1), 1),
        (dict(in_channels=64, out_channels=64, kernel_size=3, padding=1), 3),  # 36 multiplications instead of 81
    ],
)
def test_others_are_pytorchs_own(chosen, arguments, size):
    layer, x = Conv2d(**arguments), random(64, arguments["in_channels"], size, size)
    assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))
    assert chosen == []


def test_evaluation_bf16_64_bits_and_single_images_are_pytorchs_own(chosen):
    layer, x = Conv2d(64, 64, 3, padding=1), random(16, 64, 8, 8)
    assert layer(x[0]).shape == (64, 8, 8)
    assert layer(x[:0]).shape == (0, 64, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    for other in (torch.bfloat16, torch.float64):
        copy.deepcopy(layer).to(other)(x.to(other))
    layer.eval()(x)
    assert chosen == []
    layer.train()(x)
    assert chosen == [16]


def test_what_wants_no_gradient_gets_none(chosen):
    layer, x = Conv2d(64, 64, 3, padding=1), random(16, 64, 8, 8)
    upstream = random(16, 64, 8, 8, seed=1)
    _, of_x, of_weight, of_bias = value_and_gradients(as_pytorchs(copy.deepcopy(layer)), x, upstream)
    layer(x).backward(upstream)
    torch.testing.assert_close((layer.weight.grad, layer.bias.grad), (of_weight, of_bias), rtol=1e-3, atol=1e-3)
    layer.requires_grad_(False).zero_grad()
    layer(x.requires_grad_()).backward(upstream)
    torch.testing.assert_close(x.grad, of_x, rtol=1e-3, atol=1e-3)
    assert layer.weight.grad is None
    assert chosen == [16, 16]


@pytest.mark.parametrize(("place", "tiles"), [(0, 1), (3, 4)])
def test_a_value_that_is_not_finite_spoils_the_tiles_that_it_touches(chosen, place, tiles):
    layer, x = Conv2d(64, 64, 3, padding=1), random(16, 64, 8, 8)
    x[3, 5, place, place] = torch.inf
    y = layer(x)
    assert chosen == [16]
    assert y[3, :, :4, :4].isnan().all()
    assert y.isnan().sum() == y[3].isnan().sum() == tiles * 4 * 4 * 64


def test_a_batch_of_few_tiles_is_pytorchs_own(chosen):
    layer, x = Conv2d(64, 64, 3, padding=1), random(64, 64, 4, 4)  # a tile an image
    assert torch.equal(layer(x[:63]), nn.Conv2d.forward(layer, x[:63]))
    assert chosen == []
    layer(x)
    assert chosen == [64]


def test_a_default_device_makes_no_difference(chosen):
    winograd.transforms.cache_clear()
    layer, x = Conv2d(64, 64, 3, padding=1), random(16, 64, 8, 8)
    with torch.device("meta"):
        assert layer(x).device.type == "cpu"
    assert layer(x).isfinite().all()
    assert chosen == [16, 16]


def test_tensors_without_values_take_pytorchs_and_leave_nothing_behind(chosen):
    winograd.transforms.cache_clear()
    with FakeTensorMode():
        layer = Conv2d(64, 64, 3, padding=1)
        assert layer(torch.empty(16, 64, 8, 8)).shape == (16, 64, 8, 8)
    assert chosen == []
    assert Conv2d(64, 64, 3, padding=1)(random(16, 64, 8, 8)).isfinite().all()
    assert chosen == [16]


def test_a_compiled_layer_is_pytorchs_own(chosen):
    layer, x = Conv2d(64, 64, 3, padding=1), random(16, 64, 8, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), nn.Conv2d.forward(layer, x))
    assert chosen == []


def test_a_network_learns_as_it_does_with_pytorchs(chosen):
    torch.manual_seed(0)
    net = VGG(11, num_classes=10, image_size=32, dropout=0.0).train()
    layers = sum(isinstance(layer, Conv2d) for layer in net.modules())
    other = as_pytorchs(copy.deepcopy(net))
    assert not any(isinstance(layer, Conv2d) for layer in other.modules())
    x, labels = random(16, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.arange(16) % 10
    for each in (net, other):
        nn.functional.cross_entropy(each(x).logits, labels).backward()
    assert 0 < len(chosen) < layers
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() < 2e-3 * theirs.grad.norm()  # rounding may turn a ReLU or a pooling
