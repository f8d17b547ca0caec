"""Where networks look: maps, projections and filters against their equations."""

import numpy as np
import pytest
import torch
from common import NOISE
from PIL import Image
from torch import nn
from torch.nn import functional as F

pytest.importorskip("captum")
pytest.importorskip("matplotlib")

from bench import attention, inference
from bench.attention import Logits
from bench.errors import ConfigError
from bench.models.googlenet import GoogLeNet
from bench.models.layers import Output
from bench.reporting import looks
from bench.saved import open_run


def images(side=32, channels=3):
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))


class Corner(nn.Module):
    """Answers class 1 for what is bright in the upper left corner, and else class 0."""

    def forward(self, x):
        bright = x[:, :, :6, :6].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 4 * bright], dim=1)


def test_occlusion_is_strongest_where_the_network_looks_and_0_elsewhere():
    drop = attention.occlusion(Corner(), torch.ones(1, 3, 32, 32), target=1)
    assert drop.shape == (32, 32)
    assert max(np.unravel_index(drop.argmax(), drop.shape)) < 6
    assert drop.max() > 0.2
    assert drop[16:, 16:] == pytest.approx(0)


def test_occlusion_is_the_mean_drop_over_the_squares_that_cover_a_place(runs):
    network, x = Logits(open_run(runs("model=lenet")).model), images()
    drop = attention.occlusion(network, x, target=3)
    window, step = 8, 2
    total, covered = torch.zeros(32, 32), torch.zeros(32, 32)
    with torch.no_grad():
        whole = network(x).softmax(dim=1)[0, 3]
        for top in range(0, 32 - window + 1, step):
            for left in range(0, 32 - window + 1, step):
                hidden = x.clone()
                hidden[:, :, top : top + window, left : left + window] = 0
                total[top : top + window, left : left + window] += whole - network(hidden).softmax(dim=1)[0, 3]
                covered[top : top + window, left : left + window] += 1
    assert drop == pytest.approx((total / covered).numpy(), abs=1e-5)


def test_grad_cam_is_the_papers_equation(runs):
    saved = open_run(runs("model=lenet"))
    network, x = Logits(saved.model), images()
    assert attention.last_maps(network, x) is network.model.features
    maps = network.model.features(x).detach().requires_grad_()  # (1, 16, 5, 5)
    network.model.classifier(maps)[0, 3].backward()
    weights = maps.grad.mean(dim=(2, 3), keepdim=True)  # equation 1
    cam = F.relu((weights * maps).sum(dim=1, keepdim=True))  # equation 2
    wanted = F.interpolate(cam, (32, 32), mode="bilinear", align_corners=False)[0, 0].detach().numpy()
    assert wanted.max() > 0
    assert attention.grad_cam(network, x, target=3) == pytest.approx(wanted, abs=1e-5)


def test_a_projection_is_the_deconvnets():
    first, second = nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 2, 3, bias=False)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(first, nn.ReLU(inplace=True), nn.MaxPool2d(2), second, nn.ReLU(inplace=True))

        def forward(self, x):
            return Output(self.layers(x).mean(dim=(2, 3)))

    torch.manual_seed(0)
    x = images(12, 1)
    found = attention.features(Logits(Two()), x)
    deep = [feature for feature in found if feature.layer == "layers.4"]
    assert [feature.layer for feature in found] == ["layers.1"] * 3 + ["layers.4"] * 2
    with torch.no_grad():
        pooled, switches = F.max_pool2d(F.relu(first(x)), 2, return_indices=True)
        maps = F.relu(second(pooled))[0]
        for feature in deep:
            assert feature.activation == pytest.approx(maps[feature.channel].numpy(), abs=1e-6)
            back = torch.zeros_like(maps)[None]
            back.view(-1)[feature.channel * maps[0].numel() + int(maps[feature.channel].argmax())] = 1
            back = F.conv_transpose2d(F.relu(back), second.weight)  # rectify, filter
            back = F.relu(F.max_unpool2d(back, switches, 2))  # unpool, rectify
            wanted = F.conv_transpose2d(back, first.weight)[0].permute(1, 2, 0)
            assert feature.projection == pytest.approx(wanted.numpy(), abs=1e-6)
            assert feature.projection.any()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["alexnet", "nin", "vgg11_bn", "googlenet", "zfnet"])
def test_every_network_can_be_looked_into(runs, noise, model):
    saved = open_run(runs(f"model={model}", base=(*NOISE, noise)))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    made = attention.attend(saved, Logits(saved.model), picture, asked=None, true=None)
    assert made.image.shape == (32, 32, 3)
    assert made.occlusion.shape == made.grad_cam.shape == (32, 32)
    assert made.asked == made.predicted
    pictures = inference.Pictures("one", ["a"], None, lambda i: picture.copy())
    told = inference.answers(saved, pictures).probabilities[0]
    assert (made.predicted, made.probability) == (told.argmax(), pytest.approx(told.max(), abs=1e-5))
    sides = [feature.activation.shape[0] for feature in made.features]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) > 1
    assert all(feature.projection.shape == (32, 32, 3) for feature in made.features)
    assert any(layer.inplace for layer in saved.model.modules() if isinstance(layer, nn.ReLU))  # it is not changed


def test_of_a_block_the_strongest_maps_of_all_branches_are_shown():
    torch.manual_seed(0)
    network, x = Logits(GoogLeNet(10, image_size=32, batch_norm=True)), images()
    calls = {name: result[0] for name, _, result in attention.outputs(network, x)}
    found: dict[str, list[int]] = {}
    for feature in attention.features(network, x):
        found.setdefault(feature.layer, []).append(feature.channel)
    blocks = [name for name in found if "inception" in name]
    assert [name[-2:] for name in blocks] == ["3b", "4e", "5b"]
    for block in blocks:
        peaks = calls[f"model.{block}"].amax(dim=(1, 2))
        assert len(peaks) in (480, 832, 1024)
        assert found[block] == peaks.argsort(descending=True)[:4].tolist()


def test_relu6_is_rectified_as_relu_is():
    first, second = nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 2, 3, bias=False)

    def features(activation):
        found = attention.features(Logits(nn.Sequential(first, activation(), second, activation(), Last())), x)
        return [(feature.channel, feature.activation, feature.projection) for feature in found]

    class Last(nn.Module):
        def forward(self, x):
            return Output(x.mean(dim=(2, 3)))

    torch.manual_seed(0)
    x = images(12, 1)
    assert first(x).max() < 6
    for six, relu in zip(features(nn.ReLU6), features(nn.ReLU), strict=True):
        for one, other in zip(six, relu, strict=True):
            assert np.array_equal(one, other)
    large = Logits(nn.Sequential(nn.ReLU6(), Last()))
    assert large(torch.full((1, 2, 4, 4), 7.0)).tolist() == [[6.0, 6.0]]


def test_what_reaches_a_relu_reaches_the_other_readers_of_its_input_too():
    inner, outer = nn.Conv2d(1, 1, 3, padding=1, bias=False), nn.Conv2d(1, 1, 3, padding=1, bias=False)

    class PreActivated(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = inner, outer
            self.first = self.last = nn.ReLU(inplace=False)

        def forward(self, x):
            x = self.inner(x)
            return Output(self.last(x + self.outer(self.first(x))).mean(dim=(2, 3)))

    torch.manual_seed(0)
    x = images(8, 1)
    (feature,) = attention.features(Logits(PreActivated()), x)
    with torch.no_grad():
        maps = inner(x)
        maps = F.relu(maps + outer(F.relu(maps)))
        back = torch.zeros_like(maps)
        back.view(-1)[int(maps.argmax())] = 1
        back = back + F.relu(F.conv_transpose2d(back, outer.weight, padding=1))  # around the block, and through it
        wanted = F.conv_transpose2d(back, inner.weight, padding=1)[0].permute(1, 2, 0)
    assert feature.activation == pytest.approx(maps[0, 0].numpy(), abs=1e-6)
    assert feature.projection == pytest.approx(wanted.numpy(), abs=1e-6)


def test_a_network_without_relu_has_its_convolutions_shown(runs):
    saved = open_run(runs("model=lenet", "model.net.activation=tanh"))
    made = attention.features(Logits(saved.model), images())
    assert {feature.layer for feature in made} == {"features.0", "features.3"}


def test_networks_without_maps_or_convolutions_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(ConfigError, match="no feature maps larger than 1×1"):
        attention.last_maps(network, images())
    with pytest.raises(ConfigError, match="no convolution"):
        attention.first_filters(network)


def test_filters_are_the_weights_around_grey(runs):
    saved = open_run(runs("model=lenet"))
    filters = attention.first_filters(saved.model)
    assert filters.shape == (6, 5, 5, 3)
    panels = looks.of_filters(filters, "lenet").axes
    drawn = [panel.get_images()[0].get_array() for panel in panels if panel.get_images()]
    assert len(drawn) == 6
    for image, weights in zip(drawn, filters, strict=True):
        assert np.asarray(image) == pytest.approx(0.5 + weights / np.abs(weights).max() / 2)
    grey = looks.of_filters(np.ones((4, 5, 5, 2)), "two channels")
    assert sum(bool(panel.get_images()) for panel in grey.axes) == 8
