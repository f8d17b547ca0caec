"""What cannot be composed is told by ``bench`` in a line that names what was meant and what is allowed."""

import pytest
from common import files, one_line

from bench.config import CONF
from bench.explain import groups, options

MODELS = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def test_an_unknown_option_is_answered_with_the_choices(bench, tmp_path):
    code, _, err = bench("model=letnet")
    assert code == 2
    assert "model=letnet" in one_line(err)
    assert "did you mean lenet?" in err
    assert ", ".join(MODELS) in err
    assert files(tmp_path) == []


@pytest.mark.parametrize("group", ["data", "optimizer", "scheduler", "trainer", "logger", "augment"])
def test_every_group_names_its_choices(bench, group):
    code, _, err = bench(f"{group}=nonsense")
    assert code == 2
    choices = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    assert f"{group}=nonsense" in one_line(err)
    assert ", ".join(choices) in err


def test_a_folder_of_options_is_no_group():
    assert {"model", "augment", "augment/normalize"} <= set(groups())
    assert "model/timm" not in groups()
    assert {"lenet", "timm/resnet18"} <= set(options("model"))
    assert {"crop", "normalize/zca"} & set(options("augment")) == {"crop"}


@pytest.mark.parametrize("option", ["nope", "timm", "timm/nope", "[lenet,timm/nope]"])
def test_options_in_folders_are_among_the_choices(bench, option):
    code, _, err = bench(f"model={option}")
    assert code == 2
    assert f"model={option.removeprefix('[lenet,').rstrip(']')}: no such option" in one_line(err)
    assert f"{MODELS[-1]}, timm/densenet121, " in err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("modle=nin", "did you mean model?"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("optimizer.ler=0.1", "did you mean optimizer.lr?"),
        ("normalize=zca", "did you mean augment/normalize?"),
        ("optimizer.momentum=0.5", "only available with optimizer=sgd"),
        ("logger.mode=offline", "only available with logger=wandb"),
        ("augment.flip.p=1", "only available with augment=flip"),
        ("data.source.root=/x", "only available with data=cifar10, cifar100, "),  # its default refers to another
        ("augment.crop.size=28", "only available with augment=crop"),
        ("model.net.architecture=resnet34", "only available with model=timm/densenet121, timm/"),
        ("model.pretrained=imagenet", "only available with model=alexnet_torchvision, googlenet_torchvision, vgg11, "),
        ("model=resnet18", "did you mean timm/resnet18?"),
        ("model/timm=resnet18", "model/timm: is not a group; write model=timm/…"),
        ("augment.normalize.bias=1", "only available with augment/normalize=zca"),
        ("augment/normalize=mean", "augment/normalize=mean: no such option"),
        ("augment=[crop,flap]", "augment=flap: no such option (did you mean flip?); choose from alternating_flip, "),
        ("augment=[crop,", "a list needs quotes and no spaces"),
        ("paths.data=/a=b", "needs its own quotes"),
        ("paths.data=~/images", "paths.data=~/images: a value with characters such as = ( or ~ needs its own quotes"),
        ("model=lenet,nin", "model=lenet,nin: several values make a sweep"),
        ("lenet", "lenet: write it as setting=value"),
    ],
)
def test_what_cannot_be_composed_is_answered_with_what_was_meant(bench, override, said):
    code, _, err = bench(override)
    assert code == 2
    assert said in one_line(err)


@pytest.mark.parametrize("group", ["sweeper", "job_logging"])
def test_unknown_options_of_hydras_own_groups_are_told(bench, group):
    code, _, err = bench("-m", f"hydra/{group}=nope")
    assert code == 2
    assert f"hydra/{group}=nope: no such option" in one_line(err)


def test_the_choices_of_a_folder_have_its_name(bench):
    code, _, err = bench("+model/timm=resnet19")
    assert code == 2
    assert "model=timm/resnet19: no such option (did you mean timm/resnet18?)" in one_line(err)
    assert ", resnet18" not in err


def test_the_choices_include_those_of_another_folder(bench, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "ours.yaml").write_text("name: ours\n")
    code, _, err = bench(f"--config-dir={tmp_path / 'mine'}", "model=our")
    assert code == 2
    assert "did you mean ours?" in one_line(err)
    assert ", nin_bn, ours, " in err


@pytest.mark.parametrize(
    ("text", "told"), [("name: a\n net: {\n", "mapping values"), ("a: 1\na: 2\n", "duplicate key a")]
)
def test_a_file_that_is_not_yaml_is_told_with_its_place(bench, tmp_path, text, told):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "ours.yaml").write_text(text)
    code, _, err = bench(f"--config-dir={tmp_path / 'mine'}", "model=ours")
    assert code == 2
    assert told in one_line(err)
    assert 'ours.yaml", line 2' in err


def test_syntax_errors_are_told_in_a_line(bench):
    code, _, err = bench("model=[")
    assert code == 2
    assert "input '['" in one_line(err)
