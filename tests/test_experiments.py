"""Recipes: each composes, takes real steps on images of its size, and has the published schedule."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import open_dict

from bench import cli, config
from bench.assemble import build, make_trainer, prepare_machine
from bench.callbacks import quiet

ALL = sorted(
    str(file.relative_to(config.CONF / "experiment"))[:-5] for file in config.CONF.glob("experiment/**/*.yaml")
)
PADDLE = ("alexnet", "vgg13", "vgg16", "vgg19", "timm/resnet50", "googlenet")


def side_of(name):
    """Of the images a recipe is tried on: its own for those of small images, smaller for NiN's whitening; for others
    112 pixels, which have the papers' geometry, too, as images of 96 have.
    """
    if name == "paper/nin":
        return 16
    return {"cifar10": 32, "flowers102": 64}.get(name.partition("/")[0], 112)


def on_random_images(tmp_path, name, *settings, side=None):
    """The recipe on six smaller images, in batches of two."""
    side = side or side_of(name)
    own = ["data.num_classes=10", "data.batch_size=2", "trainer.max_epochs=1", "data.val_size=null"]
    own += ["trainer.check_val_every_n_epoch=1"]
    cfg = cli.composed(
        [
            f"experiment={name}",
            *(f"paths.{key}={tmp_path}/{key}" for key in ("data", "results", "cache")),
            "trainer.accelerator=cpu",
            *own,
            f"data.image_size={side}",
            f"data.decode_size={side + 16 * (side >= 96)}",
            *settings,
        ]
    )
    with open_dict(cfg):
        cfg.data.source = {"_target_": "bench.speed.synthetic.source", "_partial_": True, "train": 6}
        cfg.data.protocol = "random"
        cfg.data.content = None
    return cfg


def steps(cfg):
    """The losses of the recipe's steps, and whether they moved every weight."""
    resolved = config.check(cfg)
    device = prepare_machine(resolved)
    data, module = build(cfg, resolved, device)
    before = [p.detach().clone() for p in module.model.parameters()]
    losses = []
    take = module.training_step
    module.training_step = lambda batch, batch_idx: losses.append(take(batch, batch_idx)) or losses[-1]
    with quiet():
        make_trainer(resolved, device, data, None, [], 1, Path()).fit(module, datamodule=data)
    moved = [not torch.equal(p, old) for p, old in zip(module.model.parameters(), before, strict=True)]
    return [loss.item() for loss in losses], moved


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_each_takes_steps(tmp_path, name):
    losses, moved = steps(on_random_images(tmp_path, name))
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert np.mean(moved) > 0.9  # a bias behind dead ReLUs may stay


@pytest.mark.slow
@pytest.mark.parametrize("model", PADDLE)
def test_the_demos_recipe_takes_steps_with_each_of_its_networks(tmp_path, model):
    cfg = on_random_images(tmp_path, "paper/paddle_flowers", f"model={model}", side=96)
    assert cfg.model.name == model
    losses, moved = steps(cfg)
    assert np.isfinite(losses).all()
    assert np.mean(moved) > 0.7  # residual branches that begin as zero keep what is before them


def rates(cfg, epochs, per_epoch=100):
    """The learning rate in each of the epochs, counted from 0."""
    from hydra.utils import instantiate

    optimizer = instantiate(cfg.optimizer)([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    schedule = instantiate(cfg.scheduler)(optimizer, cfg.trainer.max_epochs * per_epoch)
    factor = schedule.lr_lambdas[0]
    return [cfg.optimizer.lr * factor(epoch * per_epoch) for epoch in epochs]


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("paper/alexnet", (0, 29, 30, 60, 80, 89), (1e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-5)),
        ("paper/vgg16", (0, 36, 37, 56, 67), (1e-2, 1e-2, 1e-3, 1e-4, 1e-5)),
        ("paper/nin", (0, 255, 256, 281, 282, 306), (0.1, 0.1, 0.01, 0.01, 0.001, 0.001)),
        ("paper/googlenet", (0, 7, 8, 16, 240), (1e-2, 1e-2, 0.96e-2, 0.96**2 * 1e-2, 0.96**30 * 1e-2)),
        ("paper/googlenet_quick", (0, 15, 45), (1e-2, 0.75**0.5 * 1e-2, 0.25**0.5 * 1e-2)),
        ("paper/paddle_flowers", (0, 100, 199), (1e-2, 1e-2, 1e-2)),
    ],
)
def test_rates_are_the_published_ones(name, epochs, expected):
    cfg = cli.composed([f"experiment={name}"])
    assert rates(cfg, epochs) == pytest.approx(list(expected))
    assert (cfg.optimizer.momentum, cfg.optimizer.nesterov) == (0.9, False)


@pytest.mark.parametrize(
    ("name", "augment"),
    [
        ("paper/googlenet", ["resized_crop", "flip", "color_jitter", "lighting"]),
        ("paper/googlenet_quick", ["random_crop", "flip"]),
    ],
)
def test_googlenets_recipes_subtract_the_mean_alone_and_crop_as_published(name, augment):
    cfg = cli.composed([f"experiment={name}"])
    normalize = cfg.augment.normalize
    assert (normalize._target_, normalize.unit_variance) == ("bench.data.normalize.ChannelNormalize", False)
    assert [transform for transform in cfg.augment if transform != "normalize"] == augment


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("paper/")])
def test_a_recipe_is_of_the_network_and_the_data_that_it_is_called_after(name):
    cfg = cli.composed([f"experiment={name}"])
    data, _, model = name.partition("/")
    assert (cfg.data.name, cfg.model.name) == (data, model)
    assert f"experiment={name}" in (config.CONF / "experiment" / f"{name}.yaml").read_text()


def commands(name):
    """The arguments of each ``bench`` command in the head of a recipe."""
    text = (config.CONF / "experiment" / f"{name}.yaml").read_text().replace("\\\n#", "")
    return [shlex.split(line[1:], comments=True)[1:] for line in text.splitlines() if line.startswith("#   bench ")]


@pytest.mark.parametrize("name", ALL)
def test_the_commands_of_a_recipes_head_compose(name):
    assert commands(name)
    for arguments in commands(name):
        assert cli.composed([one for one in arguments if one != "-m" and "," not in one]).model.net


def test_vgg_11_begins_as_published_with_images_whose_mean_alone_is_subtracted():
    _, arguments = commands("paper/vgg16")
    cfg = cli.composed(arguments)
    assert (cfg.model.name, cfg.model.net.init, cfg.trainer.clip_norm) == ("vgg11", "paper", None)
    assert (cfg.augment.normalize._target_, cfg.augment.normalize.unit_variance) == (
        "bench.data.normalize.ChannelNormalize", False,
    )  # fmt: skip


def test_a_setting_beside_a_recipe_takes_its_place():
    cfg = cli.composed(["experiment=paper/paddle_flowers", "model=vgg19", "optimizer.lr=0.5", "data.epochs=2"])
    assert (cfg.model.name, cfg.optimizer.lr, cfg.trainer.max_epochs) == ("vgg19", 0.5, 2)
