"""timm's networks behind the adapter: published numbers, the small form, auxiliary heads, what is refused."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from networks import check_both_ways, check_shapes_both_ways, empty, of_type, on_meta
from torch import nn

from bench import costs, train
from bench.config import CONF
from bench.models.timm_net import AUX_SMALLEST, SMALLEST, TimmNet
from bench.store import Store

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "timm.json").read_text(encoding="utf-8"))
CONFIGS = sorted(path.stem for path in (CONF / "model/timm").glob("*.yaml"))
UNPADDED = ("inception_v3", "inception_v4", "inception_resnet_v2")
SMALL = [name for name in CONFIGS if name not in UNPADDED]
TORCHVISION = [name for name in CONFIGS if hasattr(torchvision.models, name)]
LARGE = ("nasnet_a", "wide_resnet50_2")
# the others take tens of seconds on two busy cores, and run at their papers' sizes on the meta device alone
QUICK = ("inception_v3", "inception_v4", "resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2")
POOLED = ("densenet121", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")  # 7×7/2, then max pooling


@cache
def settings(name: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = compose("config", [f"model=timm/{name}", "data=cifar10"]).model
    assert model.name == f"timm/{name}"
    return dict(model.net)


def configured(name: str, image_size: int, num_classes: int = 10, **arguments) -> nn.Module:
    """The network of a config."""
    sizes = {"image_size": image_size, "num_classes": num_classes, "in_channels": 3}
    return instantiate(settings(name) | sizes | arguments)


# ---- size and cost


def test_every_config_has_golden_numbers():
    assert sorted(GOLDEN) == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_published_numbers(name):
    golden = GOLDEN[name]
    net = on_meta(configured, name, golden["image_size"], 1000)
    found = {"params": costs.parameters(net), "macs": costs.macs(net, 3, golden["image_size"])}
    for which, number in found.items():
        assert abs(number - golden[which]) <= golden["tolerance"][which], which
    assert golden["source"]


@pytest.mark.parametrize("name", TORCHVISION)
def test_golden_numbers_are_those_torchvision_publishes(name):
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    aux = 0
    if name == "inception_v3":
        theirs = on_meta(torchvision.models.inception_v3, init_weights=False)
        aux = sum(p.numel() for p in theirs.AuxLogits.parameters())
    assert GOLDEN[name]["params"] == published["num_params"] - aux
    assert GOLDEN[name]["macs"] == pytest.approx(published["_ops"] * 1e9)


# ---- behaviour


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in SMALL])
def test_every_config_with_a_small_form_runs_forward_and_backward(name):
    torch.manual_seed(0)
    check_both_ways(configured(name, 32), 32, heads=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_config_with_a_small_form_has_the_shapes_of_larger_images(name):
    check_shapes_both_ways(on_meta(configured, name, 64), 64, heads=0)


@pytest.mark.parametrize("name", UNPADDED)
@pytest.mark.parametrize("image_size", [32, 64, 74])
def test_networks_without_a_small_form_say_what_they_need(name, image_size):
    with pytest.raises(ValueError, match=f"^image_size={image_size}: {name} needs at least 75 pixels$"):
        TimmNet(name, image_size=image_size)


@pytest.mark.parametrize("name", UNPADDED)
def test_the_smallest_images_are_the_networks_own(name, monkeypatch):
    on_meta(TimmNet, name, image_size=75, num_classes=10)(empty(75))
    monkeypatch.setitem(SMALLEST, name, 74)
    with pytest.raises(RuntimeError):
        on_meta(TimmNet, name, image_size=74, num_classes=10)(empty(74))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_has_the_shapes_of_a_forward_and_backward_pass_at_its_papers_size(name):
    image_size = GOLDEN[name]["image_size"]
    check_shapes_both_ways(on_meta(configured, name, image_size), image_size, heads=int(name == "inception_v3"))


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_networks_run_forward_and_backward_at_their_papers_size(name):
    torch.manual_seed(0)
    image_size = GOLDEN[name]["image_size"]
    heads = int(name == "inception_v3")
    check_both_ways(configured(name, image_size), image_size, heads)


@pytest.mark.parametrize("name", ["xception", "nasnet_a", "resnet18", "densenet121", "mobilenet_v2"])
@pytest.mark.parametrize("image_size", [8, 33, 95, 96])
def test_any_size_between_the_geometries(name, image_size):
    net = on_meta(configured, name, image_size)
    for mode in (net.train, net.eval):
        assert mode()(empty(image_size)).logits.shape == (2, 10)


@pytest.mark.parametrize("name", CONFIGS)
def test_images_of_one_channel(name):
    image_size = 32 if name in SMALL else 107
    net = on_meta(configured, name, image_size, in_channels=1)
    assert net(empty(image_size, in_channels=1)).logits.shape == (2, 10)


# ---- the small form


@pytest.mark.parametrize("name", SMALL)
def test_the_small_form_keeps_full_resolution_behind_the_first_convolution(name):
    paper, small = (on_meta(configured, name, image_size).net for image_size in (224, 32))
    place = small.default_cfg["first_conv"]
    first, its_paper = small.get_submodule(place), paper.get_submodule(place)
    assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1))
    assert first.out_channels == its_paper.out_channels
    assert (first.bias is None, its_paper.stride) == (True, (2, 2))
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (paper, small)]
    assert {key for key in shapes[0] | shapes[1] if shapes[0].get(key) != shapes[1].get(key)} <= {f"{place}.weight"}


@pytest.mark.parametrize("name", POOLED)
def test_the_small_form_has_no_pooling_in_its_stem(name):
    pools = [len([m for m in on_meta(configured, name, s).modules() if isinstance(m, nn.MaxPool2d)]) for s in (224, 32)]
    assert pools == [1, 0]


@pytest.mark.parametrize("architecture", ["resnetv2_50", "legacy_seresnet50", "resnet26d"])
def test_the_pooling_of_a_stem_is_found_by_its_place_whatever_its_name(architecture):
    pools = [of_type(on_meta(TimmNet, architecture, image_size=side), nn.MaxPool2d) for side in (224, 32)]
    assert [len(each) for each in pools] == [1, 0]


def test_pooling_in_later_blocks_stays():
    pools = [of_type(on_meta(TimmNet, "legacy_xception", image_size=side), nn.MaxPool2d) for side in (224, 32)]
    assert [len(each) for each in pools] == [4, 4]


@pytest.mark.parametrize(("name", "spread"), [("resnet18", 2 / (64 * 9)), ("densenet121", 2 / (3 * 9))])
def test_the_small_first_convolution_is_initialised_as_timm_does(name, spread):
    torch.manual_seed(0)
    net = configured(name, 32).net
    weight = net.get_submodule(net.default_cfg["first_conv"]).weight
    assert weight.requires_grad
    assert weight.var().item() == pytest.approx(spread, rel=0.15)  # 1,728 draws


# ---- auxiliary heads


def test_inception_v3s_head_runs_in_training_only_and_costs_nothing():
    net = on_meta(configured, "inception_v3", 299)
    called = []
    for name, head in net.aux_heads.items():
        head.register_forward_hook(lambda *_, name=name: called.append(name))
    net(empty(299))
    assert called == []
    net.train()(empty(299))
    assert called == ["6e"]
    without = on_meta(configured, "inception_v3", 299, aux_heads=False)
    assert costs.parameters(net) == costs.parameters(without) == sum(p.numel() for p in without.parameters())
    assert costs.macs(net, 3, 299) == costs.macs(without, 3, 299)
    assert without.train()(empty(299)).aux == ()


def test_inception_v3s_head_is_in_the_state_dict_once():
    net = on_meta(configured, "inception_v3", 299)
    heads = [key for key in net.state_dict() if "AuxLogits" in key or "aux_heads" in key]
    assert heads
    assert all(key.startswith("aux_heads.6e.") for key in heads)
    assert sum(p.numel() for p in net.aux_heads.parameters()) == 768 * 128 + 128 * 768 * 25 + 2 * (128 + 768) + 7690


def test_inception_v3s_head_at_299_is_timms():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    head = configured("inception_v3", 299).aux_heads["6e"].eval()
    theirs = timm.create_model("inception_v3", aux_logits=True, num_classes=10).AuxLogits.eval()
    theirs.load_state_dict({key.replace("conv0.0.", "conv0."): value for key, value in head.state_dict().items()})
    maps = torch.randn(2, 768, 17, 17)
    with torch.no_grad():
        torch.testing.assert_close(head(maps), theirs(maps))


def test_inception_v3s_head_needs_107_pixels(monkeypatch):
    net = on_meta(configured, "inception_v3", 107).train()
    assert [logits.shape for logits in net(empty(107)).aux] == [(2, 10)]
    with pytest.raises(ValueError, match="^image_size=106: the auxiliary head needs at least 107 pixels; or aux_heads"):
        TimmNet("inception_v3", image_size=106, aux_heads=True)
    assert on_meta(configured, "inception_v3", 106, aux_heads=False)(empty(106)).logits.shape == (2, 10)
    monkeypatch.setitem(AUX_SMALLEST, "inception_v3", 106)
    with pytest.raises(RuntimeError):
        on_meta(configured, "inception_v3", 106).train()(empty(106))


# ---- what is refused


def test_a_first_convolution_of_another_kind_has_no_small_form():
    with pytest.raises(ValueError, match="^image_size=64: vit_tiny_patch16_224 has no small form"):
        on_meta(TimmNet, "vit_tiny_patch16_224", image_size=64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"architecture": "resnet19"}, "architecture=resnet19: must be one of timm.list_models()"),
        ({"architecture": "resnet18", "aux_heads": True}, "aux_heads=true: resnet18 has none; only inception_v3"),
        ({"architecture": "resnet18", "aux_heads": "no"}, "aux_heads=no: must be one of true, false"),
    ],
)
def test_bad_arguments_raise_naming_the_value(arguments, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        TimmNet(**arguments)


def test_without_timm_the_command_says_what_to_install(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = bench("model=timm/resnet18")
    assert (code, err) == (2, "bench: model.net: needs timm: pip install timm, or 'convbench[timm]'\n")
    assert list(tmp_path.iterdir()) == []


def test_images_too_small_are_a_usage_error(bench, tmp_path):
    code, _, err = bench("model=timm/inception_v4")
    assert (code, err) == (2, "bench: model.net: image_size=32: inception_v4 needs at least 75 pixels\n")
    assert list(tmp_path.iterdir()) == []


def test_they_take_part_in_sweeps(bench, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("not in this test")

    monkeypatch.setattr(train, "build", refuse)
    bench("-m", "model=lenet,timm/resnet18", "seed=0,1", "progress=none")
    records = Store(tmp_path / "results").load_all()
    assert sorted((record.model, record.seed) for record in records) == [
        ("lenet", 0), ("lenet", 1), ("timm/resnet18", 0), ("timm/resnet18", 1),
    ]  # fmt: skip
    assert {record.run_id.rsplit("-", 2)[0] for record in records} == {"digits-lenet", "digits-timm-resnet18"}
