"""What is wrong with a configuration is told by ``bench`` in a line that names the value and what is allowed."""

import os
from pathlib import Path

import pytest
from common import files, one_line

from bench.config import check, resolved
from bench.errors import ConfigError
from bench.record import run_id


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("trainer.max_epochs=-3", "1 or more"),
        ("trainer.max_epochs=0", "1 or more"),
        ("trainer.max_epochs=many", "whole number"),
        ("seed=-1", "from 0 to 4294967295"),
        ("seed=5000000000", "from 0 to 4294967295"),
        ("optimizer.lr=inf", "above 0"),
        ("optimizer.weight_decay=-1", "0 or more"),
        ("trainer.deterministic=maybe", "true, false"),
        ("trainer.devices=0", "a whole number, 1 or more"),
        ("model.net.num_classes=7", "data.num_classes, which is 10"),
        ("model.net.in_channels=1", "data.in_channels, which is 3"),
        ("seed=1.5", "whole number"),
        ("data.batch_size=0", "1 or more"),
        ("trainer.check_val_every_n_epoch=0", "1 or more"),
        ("trainer.check_val_every_n_epoch=3", "must divide trainer.max_epochs, which is 5"),
        ("data.decode_size=24", "data.image_size, which is 32, or more"),
        ("data.val_size=-1", "null or a whole number, 0 or more"),
        ("data.on_error=ignore", "raise, skip"),
        ("data.device=disk", "auto, cpu, cuda"),
        ("data.in_channels=2", "one of 1, 3"),
        ("model.pretrained=imagenet21k model=vgg16", "null or imagenet"),
        ("model.freeze=head model=vgg16", "null or backbone"),
        ("model.freeze=backbone model=vgg16", "needs model.pretrained=imagenet"),
        ("+model.freeze=backbone", "needs model.pretrained=imagenet"),
        ("+model.pretrained=imagenet", "torchvision has no weights for this network"),
        ("model.pretrained=imagenet model=vgg16 ~model.twin", "torchvision has no weights for this network"),
        ("data.in_channels=1 model=vgg16 model.pretrained=imagenet", "pretrained weights need 3"),
        ("data.image_size=64 model=vgg16 model.pretrained=imagenet", "pretrained weights need 96 or more"),
        (
            "model.pretrained=imagenet model=vgg16 data.image_size=96 augment/normalize=zca",
            "brings its own mean and std",
        ),
        (
            "model.pretrained=imagenet model=vgg16 data.image_size=96 +augment.normalize.mean=[0,0,0]",
            "its own mean and",
        ),
        ("optimizer.lr=0", "above 0"),
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: must be two numbers in [0, 1)"),
        ("optimizer.betas=0.5", "two numbers"),
        ("optimizer.fused=maybe", "null or one of true, false"),
        ("optimizer.momentum=2 optimizer=sgd", "[0, 1)"),
        ("scheduler.warmup=nan", "scheduler.warmup=nan: must be a finite number"),
        ("optimizer.nesterov=yes optimizer=sgd", "one of true, false"),
        ("loss.label_smoothing=1", "[0, 1)"),
        ("loss.aux_weight=-0.1", "0 or more"),
        ("trainer.compile=fast", "auto, none, default, reduce-overhead, max-autotune"),
        ("trainer.precision=fp8", "auto, 32-true, bf16-mixed"),
        ("trainer.accelerator=abacus", "auto, gpu, mps, cpu"),
        ("force=perhaps", "true, false"),
        ("data.name=2024", "must be text; a number needs quotes, data.name=\"'2024'\""),
        ("data.protocol=2", "must be text"),
        ("data.protocol=a:b", "data.protocol=a:b: must be letters, digits and . _ - /"),
        ("data.protocol=null", "data.protocol=null: must be text\n"),
        ("data.source.split=7 data=flowers102", "data.source.split=7: must be text"),
        ("data.source=null data=cifar10", "must describe a data set, as in conf/data"),
        ("progress=loud", "bar"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(bench, tmp_path, override, allowed):
    code, _, err = bench(*override.split())
    assert code == 2
    assert override.split()[0].lstrip("+") in one_line(err)
    assert allowed in err
    assert files(tmp_path) == []


def test_another_optimizer_may_have_settings_of_the_same_name(composed):
    three = ("optimizer.betas=[0.98,0.92,0.99]", "optimizer._target_=team.Adan")
    assert check(composed(*three))["optimizer"]["betas"] == [0.98, 0.92, 0.99]
    with pytest.raises(ConfigError, match=r"optimizer.betas=\[0.98, 0.92, 0.99\]: must be two numbers"):
        check(composed(*three[:1]))


def test_what_nobody_reads_is_refused(bench, tmp_path):
    code, _, err = bench("+model/timm=resnet18")
    assert code == 2
    assert "model.timm: no such setting; available: name, net, lr" in one_line(err)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.val_size=1790", "1790"),
        ("data.num_classes=7", "data.num_classes=7"),
        ("data.image_size=12", "image_size=12"),
        ("model.net.pool=median", "pool=median"),
        ("scheduler.warmup=5", "scheduler.warmup=5"),
        ("scheduler.warmup=half", "scheduler.warmup=half"),
        ("optimizer.betas=0.9", "optimizer.betas=0.9"),
        ("+optimizer.foo=1", "foo"),
        ("+optimizer.foreach=true", "optimizer.foreach=True: `fused` and `foreach` cannot be `True` together"),
        ("+loss.foo=1", "loss.foo: no such setting; available: aux_weight, label_smoothing"),
        ("+epochs=100", "epochs: no such setting; available: seed, force"),
        ("+trainer.max_steps=100", "trainer.max_steps: no such setting; available: max_epochs"),
        ("+data.classes=3", "data.classes: no such setting"),
        ("+logger.tracking_uri=https://me:word@host/x", "logger.tracking_uri: secrets do not belong"),
        ("~scheduler", "scheduler: missing"),
        ("~logger", "logger: missing"),
        ("loss=0.1", "loss"),
        ("+model.net.foo=1", "foo"),
        ("data.source.test_size=abc", "abc"),
        ("data.device=cuda", "choose auto or cpu"),
        ("augment=[mixup,cutmix]", "Mixup and CutMix exclude each other"),
        ("+augment.foo=3", "augment.foo"),
    ],
)
def test_what_a_constructor_refuses_is_a_usage_error_that_leaves_nothing(bench, tmp_path, override, said):
    code, _, err = bench("model=lenet", override)
    assert code == 2
    assert said in one_line(err)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("trainer.clip_norm=1", "trainer.clip_norm=1.0"),
        ("loss.label_smoothing=0", "loss.label_smoothing=0.0"),
        ("optimizer.lr=1", "optimizer.lr=1e0"),
        ("scheduler.warmup=0", "scheduler.warmup=0.0"),
        ("model.net.dropout=0", "model.net.dropout=0.0"),
    ],
)
def test_a_number_names_the_same_run_however_it_is_written(composed, one, other):
    names = [run_id(resolved(composed("model=alexnet", setting))) for setting in (one, other)]
    assert names[0] == names[1]
    assert names[0] != run_id(resolved(composed("model=alexnet", other, "optimizer.lr=0.5")))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "CIFAR-10 not found"),
        (("scheduler.warmup=5",), "scheduler.warmup=5"),
        (("optimizer.betas=0.9",), "optimizer.betas=0.9"),
        (("augment=[mixup,cutmix]",), "exclude each other"),
    ],
)
def test_what_is_wrong_with_the_training_is_told_before_images_are_read(bench, tmp_path, overrides, said):
    code, _, err = bench(
        "model=lenet", "data=cifar10", "data.source.download=false", f"paths.data={tmp_path}", *overrides
    )
    assert code == 2
    assert said in one_line(err)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("~paths.cache", "paths.cache: missing from the configuration"),
        ("model=null", "a group's option must be a name"),
        ("~model.net.num_classes", "num_classes"),
        ("paths.data=null", "paths.data=None: must be a folder"),
    ],
)
def test_what_is_missing_from_the_configuration_is_named(bench, override, said):
    code, _, err = bench(override)
    assert code == 2
    assert said in one_line(err)


def test_a_missing_data_folder_is_named(bench, tmp_path):
    code, _, err = bench("data=cifar10", f"paths.data={tmp_path / 'nowhere'}")
    assert code == 2
    assert f"paths.data={tmp_path / 'nowhere'}" in one_line(err)
    assert files(tmp_path) == []


def test_a_data_folder_without_the_data_is_named(bench, tmp_path):
    code, _, err = bench("data=cifar10", f"paths.data={tmp_path}", "data.source.download=false")
    assert code == 2
    assert str(tmp_path) in one_line(err)
    assert files(tmp_path) == []


def test_a_results_path_that_is_a_file_is_named(bench, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = bench("model=lenet", results=tmp_path / "file/results")
    assert code == 2
    assert "not a folder" in one_line(err)


def as_somebody(call):
    """Call as a user whom permissions stop, even where root runs the tests, in a folder that everybody may enter."""
    if os.geteuid():
        return call()
    for path in Path.cwd().parents:  # temporary ones, which stay open: another worker's test may be in them, too
        if (mode := path.stat().st_mode) & 0o055 != 0o055:
            path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        return call()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("mode", "results"), [(0o555, "locked"), (0o555, "locked/new"), (0o000, "locked/new")])
def test_a_results_folder_that_cannot_be_written_is_named(bench, tmp_path, monkeypatch, mode, results):
    (tmp_path / "open/locked").mkdir(parents=True)
    (tmp_path / "open/locked").chmod(mode)
    monkeypatch.chdir(tmp_path / "open")
    code, _, err = as_somebody(lambda: bench("model=lenet", results=tmp_path / "open" / results))
    assert code == 2
    assert f"paths.results={tmp_path / 'open' / results}: " in one_line(err)
    assert "locked is not writable" in err


def test_a_data_folder_that_may_not_be_entered_is_named(bench, tmp_path, monkeypatch):
    (tmp_path / "open/locked").mkdir(parents=True)
    (tmp_path / "open/locked").chmod(0o000)
    monkeypatch.chdir(tmp_path / "open")
    code, _, err = as_somebody(lambda: bench("data=cifar10", "paths.data=locked/images", results="new"))
    assert code == 2
    assert "paths.data=locked/images: no such folder" in one_line(err)


def test_a_cache_that_cannot_be_written_is_named(bench, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = bench(f"paths.cache={tmp_path / 'file'}")
    assert (code, err) == (2, f"bench: paths.cache={tmp_path / 'file'}: {tmp_path / 'file'} is not a folder\n")


@pytest.mark.parametrize("name", ["data", "results", "cache"])
def test_a_home_that_is_nobodys_is_named(bench, tmp_path, name):
    own = {"results": "'~nobody-here/x'"} if name == "results" else {}
    code, _, err = bench(*(() if own else (f"paths.{name}='~nobody-here/x'",)), **own)
    assert (code, err) == (2, f"bench: paths.{name}=~nobody-here/x: no such user's home\n")


@pytest.mark.parametrize(("root", "said"), [("~nobody-here/x", "no such user's home"), ("/nowhere", "no such folder")])
def test_a_place_of_the_images_that_is_not_there_is_named(bench, root, said):
    code, _, err = bench("data=cifar10", f"data.source.root='{root}'")
    assert (code, err) == (2, f"bench: data.source.root={root}: {said}\n")


@pytest.mark.parametrize("name", ["data", "cache"])
def test_an_empty_path_is_refused(bench, name):
    code, _, err = bench(f"paths.{name}=''")
    assert code == 2
    assert f"paths.{name}=: must be a folder" in one_line(err)


def test_a_refused_argument_is_named_with_its_place(bench):
    code, _, err = bench("augment=cutout", "augment.cutout.length=0")
    assert (code, err) == (2, "bench: augment.cutout: length=0: must be a whole number, 1 or more\n")


def test_a_folder_needs_a_name_and_to_be_there(bench, tmp_path):
    code, _, err = bench("data=folder")
    assert (code, err) == (2, "bench: data.name: must be set, as data.name=…\n")
    code, _, err = bench("data=folder", "data.name=pets", f"paths.data={tmp_path}")
    assert code == 2
    assert f"{tmp_path}/pets/train: no such folder" in one_line(err)
    code, _, err = bench("-m", "data=folder", "seed=0,1")
    assert code == 2
    assert "data.name: must be set" in one_line(err)


@pytest.mark.parametrize(
    "setting",
    [
        "+logger.api_key=abc123",
        "+model.net.auth_token=abc123",
        "+paths.Password=abc123",
        "+logger.uri=https://me:abc123@host",
        "+vars.hosts=[https://me:abc123@host]",
        "+vars.hosts=[{password:abc123}]",
    ],
)
def test_secrets_are_refused_without_being_repeated(bench, tmp_path, setting):
    for arguments in ([setting], ["-m", "seed=0,1", setting]):
        code, _, err = bench(*arguments)
        assert code == 2
        assert setting.removeprefix("+").partition("=")[0] in one_line(err)
        assert "secrets do not belong in a configuration" in err
        assert "abc123" not in err
    assert not (tmp_path / "results").exists()
