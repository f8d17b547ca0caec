"""Settings: what tells a table's rows apart."""

import pytest

from bench.reporting import leaderboard, render, settings


def test_configurations_of_one_model_are_told_apart_by_what_differs(make_record):
    def config(lr, seed):
        return {"model": {"name": "nin"}, "data": {"name": "digits"}, "seed": seed, "optimizer": {"lr": lr, "eps": 1}}

    records = [make_record("nin", seed, config=config(lr, seed)) for seed in (0, 1) for lr in (0.1, 0.2)]
    (table,) = leaderboard.tables(records)
    assert sorted((row.variant, row.n) for row in table.rows) == [("optimizer.lr=0.1", 2), ("optimizer.lr=0.2", 2)]


def test_classes_of_one_name_in_other_packages_are_other_settings(make_record):
    def config(package, seed):
        own = {"_target_": f"{package}.AdamW", "lr": 0.1}
        return {"model": {"name": "nin"}, "data": {"name": "digits"}, "seed": seed, "optimizer": own}

    packages = ("torch.optim", "mylab.optim")
    records = [make_record("nin", seed, config=config(one, seed)) for seed, one in enumerate(packages)]
    (table,) = leaderboard.tables(records)
    assert sorted((row.variant, row.n) for row in table.rows) == [
        ("optimizer=adamw", 1), ("optimizer=mylab.optim.adamw", 1),
    ]  # fmt: skip


def test_pretrained_rows_are_marked_whatever_stands_beside_them(make_record):
    scratch = make_record("lenet", config={"model": {"name": "lenet"}, "seed": 0})
    probe = {"name": "vgg16", "pretrained": "imagenet", "freeze": "backbone"}
    records = [scratch, make_record("vgg16", config={"model": probe, "seed": 0})]
    for chosen in (records, records[1:]):
        (table,) = leaderboard.tables(chosen)
        variants = {row.model: row.variant for row in table.rows}
        assert variants["vgg16"] == "model.freeze=backbone model.pretrained=imagenet"
        assert variants.get("lenet", "") == ""


def test_augmentations_are_told_as_they_are_asked_for(make_record):
    def config(*names, normalize="ChannelNormalize", length=16, side=32):
        known = {
            "crop": {"_target_": "x.RandomCrop", "size": side},
            "cutout": {"_target_": "x.Cutout", "length": length},
        }
        augment = {name: known[name] for name in names} | {"normalize": {"_target_": f"bench.x.{normalize}"}}
        model = {"name": "lenet", "net": {"_target_": "LeNet", "image_size": side}}
        return {"model": model, "data": {"image_size": side, "decode_size": side}, "augment": augment, "seed": 0}

    def variants(*configs):
        (table,) = leaderboard.tables([make_record(config=one) for one in configs])
        return {row.variant for row in table.rows}

    assert variants(config("crop"), config("crop", "cutout")) == {"augment=[crop]", "augment=[crop,cutout]"}
    assert variants(config("crop", "cutout"), config("cutout", "crop")) == {
        "augment=[crop,cutout]", "augment=[cutout,crop]",
    }  # fmt: skip
    assert variants(config("cutout"), config("cutout", length=8)) == {
        "augment.cutout.length=16", "augment.cutout.length=8",
    }  # fmt: skip
    assert variants(config(), config(normalize="ZcaNormalize")) == {
        "augment/normalize=ChannelNormalize", "augment/normalize=ZcaNormalize",
    }  # fmt: skip
    biased = [config() | {"augment": {"normalize": {"_target_": "x.ZcaNormalize", "bias": bias}}} for bias in (0.1, 5)]
    assert variants(*biased) == {"augment.normalize.bias=0.1", "augment.normalize.bias=5"}
    assert variants(config(), config(side=64)) == {"data.image_size=32", "data.image_size=64"}


@pytest.mark.parametrize(
    ("choice", "key"), [("optimizer", "eps"), ("scheduler", "final"), ("augment.normalize", "unit_variance")]
)
def test_a_setting_beside_those_of_a_choice_is_told(make_record, choice, key):
    def record(seed, **more):
        one = {"_target_": "x.One", **more}
        kind, _, part = choice.partition(".")
        config = {"model": {"name": "nin"}, "seed": seed, "augment": {}} | {kind: {part: one} if part else one}
        return make_record("nin", seed, config=config)

    for with_it in (1, 2):  # the fewer, or as many
        (table,) = leaderboard.tables([record(0), record(1), *(record(i + 2, **{key: i}) for i in range(with_it))])
        told = [f"{choice}.{key}={i}" for i in range(with_it)]
        assert sorted(row.variant for row in table.rows) == ["", *told]
        assert table.usual == ""


def test_of_other_networks_a_row_tells_what_is_not_usual(make_record):
    def record(model, epochs, optimizer="AdamW", **more):
        own = {"_target_": f"torch.optim.{optimizer}", "lr": len(model), **more}
        return make_record(model, config={"model": {"name": model}, "epochs": epochs, "seed": 0, "optimizer": own})

    others = [record("nin", 30, betas=[0.9, 0.95]), record("vgg16", 30, betas=[0.9, 0.95])]
    (table,) = leaderboard.tables([record("lenet", 90, "SGD", momentum=0.9), *others])
    variants = {row.model: row.variant for row in table.rows}
    assert variants == {"lenet": "epochs=90 optimizer=sgd", "nin": "", "vgg16": ""}
    (table,) = leaderboard.tables([record("lenet", 90), others[0]])
    assert {row.variant for row in table.rows} == {"epochs=90", "epochs=30 optimizer.betas=[0.9,0.95]"}


def test_a_usual_value_tells_of_itself_below_the_table(make_record):
    def record(model, ema):
        trainer = {"max_epochs": 2} | ({} if ema is None else {"ema": ema})
        return make_record(model, config={"model": {"name": model}, "seed": 0, "trainer": trainer, "loss": {"x": None}})

    (table,) = leaderboard.tables([record("lenet", None), record("nin", 0.9), record("vgg16", 0.9)])
    assert {row.model: row.variant for row in table.rows} == {"lenet": "trainer.ema=null", "nin": "", "vgg16": ""}
    assert table.usual == "trainer.ema=0.9"
    assert "; settings unless a row says otherwise: trainer.ema=0.9." in render.section(table)


@pytest.mark.parametrize(("side", "usual"), [(32, "32"), (64, "data.image_size")])
def test_a_usual_size_that_follows_another_setting_is_told_as_a_number_or_by_that_settings_name(
    make_record, side, usual
):
    def record(model, side, **more):
        config = {"model": {"name": model}, "seed": 0, "data": {"image_size": side, **more}}
        return make_record(model, config=config)

    records = [record("lenet", 32, train_image_size=24), record("nin", 32), record("vgg16", side)]
    (table,) = leaderboard.tables(records)
    assert f"data.train_image_size={usual}" in table.usual.split()
    assert any("data.train_image_size=24" in row.variant for row in table.rows)


@pytest.mark.parametrize(
    ("earlier", "precision", "device", "told"),
    [
        ([("32-true", "cpu")], "bf16-mixed", "cpu", "32-true, then bf16-mixed"),
        ([("32-true", "cuda:0")], "bf16-mixed", "cuda:0", "32-true, then bf16-mixed"),
        ([("32-true", "cpu")], "32-true", "cuda:0", "32-true"),
        ([("32-true", "cpu")], "32-true", "cpu", "32-true"),
    ],
)
def test_all_precisions_of_a_run_that_was_resumed_elsewhere_are_told(make_record, earlier, precision, device, told):
    config = {"model": {"name": "lenet"}, "seed": 0, "trainer": {"precision": "auto"}}
    before = [{"precision": each, "device": where} for each, where in earlier]
    record = make_record(config=config, precision=precision, device=device, earlier=before)
    assert settings.settings_of(record)["precision"] == told


def test_the_precision_is_told_once(make_record):
    def record(asked, had):
        return make_record(
            config={"model": {"name": "lenet"}, "seed": 0, "trainer": {"precision": asked}}, precision=had
        )

    (table,) = leaderboard.tables([record("auto", "bf16-mixed"), record("32-true", "32-true")])
    assert {row.variant for row in table.rows} == {"precision=bf16-mixed", "precision=32-true"}
