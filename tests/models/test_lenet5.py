"""LeNet-5 as published, against the paper's figures."""

import pytest
import torch
from torch import nn

from bench import costs
from bench.models.lenet5 import C3_SEES, LeNet5, PartialConv, RadialBasis, ScaledTanh, Subsampling, codes


def test_lenet5_has_the_papers_connections():
    """Section II.B: 122,304 + 5,880 + 151,600 + 2,000 + 48,120 + 10,164, and 840 of the output, make 340,908."""
    net = LeNet5().eval()
    counted = []

    def count(layer, _, output):
        a_unit = 5 if isinstance(layer, Subsampling) else layer.weight[0].numel() + 1  # with the bias
        counted.append(output[0].numel() * a_unit)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | Subsampling):
            layer.register_forward_hook(count)
    net(torch.randn(1, 1, 32, 32))
    c3 = sum(counted[2:5])
    assert [*counted[:2], c3, *counted[5:]] == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164]
    assert sum(counted) + codes(10).numel() == 340_908


def test_lenet5s_c3_sees_what_table_1_says():
    # the table's rows: S2's map; its columns: those of C3 that see it
    table = """
        X . . . X X X . . X X X X . X X
        X X . . . X X X . . X X X X . X
        X X X . . . X X X . . X . X X X
        . X X X . . X X X X . . X . X X
        . . X X X . . X X X X . X X . X
        . . . X X X . . X X X X . X X X
    """
    rows = [line.split() for line in table.strip().splitlines()]
    assert tuple(tuple(i for i in range(6) if rows[i][column] == "X") for column in range(16)) == C3_SEES
    torch.manual_seed(0)
    layer, x = PartialConv(C3_SEES), torch.randn(1, 6, 14, 14)
    for mode in (True, False):
        layer.train(mode)
        with torch.no_grad():
            plain = layer(x)
            for i in range(6):
                changed = x.clone()
                changed[:, i] += 1
                differs = (layer(changed) - plain).abs().amax(dim=(0, 2, 3)) > 1e-3
                assert ["X" if differ else "." for differ in differs] == rows[i]


def test_lenet5s_c3_is_the_same_function_when_it_is_trained():
    layer, x = PartialConv(C3_SEES), torch.randn(3, 6, 14, 14, generator=torch.Generator().manual_seed(0))
    values, gradients = [], []
    for mode in (True, False):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        values.append(layer.train(mode)(leaf))
        values[-1].square().sum().backward()
        gradients.append([leaf.grad, *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*values)
    assert len(gradients[0]) == 7
    for trained, evaluated in zip(*gradients, strict=True):
        torch.testing.assert_close(trained, evaluated, rtol=1e-4, atol=1e-3)


def test_lenet5s_subsampling_sums_scales_and_shifts():
    layer = Subsampling(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 3.0]))
        layer.bias.copy_(torch.tensor([0.5, -1.0]))
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(1, 2, 1, 1)
    sums = torch.tensor([[0 + 1 + 4 + 5, 2 + 3 + 6 + 7], [8 + 9 + 12 + 13, 10 + 11 + 14 + 15]]).float()
    assert torch.equal(layer(x)[0], torch.stack([2 * sums + 0.5, 3 * sums - 1]))


def test_lenet5s_tanh_takes_one_to_one():
    values = ScaledTanh()(torch.tensor([-1.0, 0.0, 1.0, 100.0]))
    torch.testing.assert_close(values, torch.tensor([-1.0, 0.0, 1.0, 1.7159]), rtol=1e-4, atol=1e-4)


def test_lenet5s_outputs_are_distances_to_codes_which_are_its_own_classes():
    layer = RadialBasis(12)
    x = torch.randn(5, 84, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), -torch.cdist(x, layer.codes).square())
    assert layer(layer.codes).argmax(dim=1).tolist() == list(range(12))
    assert layer(layer.codes).amax(dim=1).eq(0).all()
    assert layer.state_dict() == {}
    assert layer(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("num_classes", [2, 10, 102])
def test_lenet5s_codes_are_signs_that_differ(num_classes):
    table = codes(num_classes)
    assert table.shape == (num_classes, 84)
    assert table.abs().eq(1).all()
    distances = torch.cdist(table, table, p=0) + 84 * torch.eye(num_classes)
    assert distances.min() >= 5  # digits that look alike, 8 and 0, differ in as few pixels
    assert torch.equal(table, codes(num_classes))


def test_lenet5s_weights_are_drawn_by_the_inputs_of_a_unit():
    torch.manual_seed(0)
    net = LeNet5()
    for layer, inputs in (
        (net.features[0], 25),
        (net.features[2], 4),
        (net.features[4].convs[1], 100),
        (net.classifier[1], 400),
    ):
        for parameter in layer.parameters():
            assert parameter.abs().max() <= 2.4 / inputs
            if parameter.numel() > 50:
                assert parameter.abs().max() > 0.9 * 2.4 / inputs


def test_lenet5_with_a_linear_output_has_its_850_parameters_too():
    assert costs.parameters(LeNet5(output="linear")) == 60_850


def test_lenet5_keeps_the_precision_of_autocast():
    net = LeNet5()
    seen = []
    for layer in net.features:
        layer.register_forward_hook(lambda layer, _, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(2, 1, 32, 32)).logits
    assert set(seen) == {torch.bfloat16}
    assert logits.dtype == torch.float32
