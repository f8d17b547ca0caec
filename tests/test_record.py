import json

import pytest

from bench.config import check
from bench.record import SCHEMA_VERSION, RunRecord, identity, protocol, run_id

CONFIG = {
    "model": {"name": "lenet", "net": {"pool": "max"}},
    "data": {"name": "digits", "source": {"_target_": "x", "root": "/a", "download": True}, "device": "auto"},
    "augment": {"normalize": {"_target_": "z", "cache_dir": "/b"}},
    "seed": 3,
    "paths": {"data": "/a", "results": "/r"},
    "logger": {"_target_": "y"},
    "force": False,
    "progress": "auto",
}


def test_a_record_survives_json(make_record):
    record = make_record()
    assert RunRecord.from_json(record.to_json()) == record


def test_json_holds_no_nan(make_record):
    with pytest.raises(ValueError, match="nan"):
        make_record(fit_seconds=float("nan")).to_json()


def test_other_schema_versions_are_refused(make_record):
    values = json.loads(make_record().to_json()) | {"schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(ValueError, match=f"schema_version={SCHEMA_VERSION + 1}"):
        RunRecord.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["[]", "{}", "{not json", "3"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own message for some
        RunRecord.from_json(text)


def test_unknown_and_missing_fields_are_named(make_record):
    values = json.loads(make_record().to_json())
    with pytest.raises(ValueError, match="surprise"):
        RunRecord.from_json(json.dumps(values | {"surprise": 1}))
    del values["model"]
    with pytest.raises(ValueError, match="model"):
        RunRecord.from_json(json.dumps(values))


def test_a_run_is_named_after_data_model_seed_and_hash():
    name = run_id(CONFIG)
    assert name.startswith("digits-lenet-s3-")
    assert len(name.rsplit("-", 1)[1]) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"paths": {"data": "/z"}},
        {"logger": {"_target_": "wandb"}},
        {"force": True},
        {"progress": "none"},
        {"sweep": {"retries": 1}},
    ],
)
def test_paths_loggers_and_display_do_not_change_the_name(change):
    assert run_id(CONFIG | change) == run_id(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"accelerator": "cpu"},
        {"devices": 1},
        {"compile": "auto"},
        {"checkpoint_minutes": 1},
        {"num_sanity_val_steps": 2},
    ],
)
def test_the_machine_does_not_change_the_name(change):
    trainer = {"max_epochs": 3, "accelerator": "auto"}
    assert run_id(CONFIG | {"trainer": trainer | change}) == run_id(CONFIG | {"trainer": trainer})
    assert run_id(CONFIG | {"trainer": trainer | {"devices": 2}}) != run_id(CONFIG | {"trainer": trainer})
    assert run_id(CONFIG | {"trainer": trainer | {"compile": "default"}}) != run_id(CONFIG | {"trainer": trainer})


@pytest.mark.parametrize(
    ("name", "usual", "other"),
    [("devices", 1, 2), ("compile", "auto", "none"), ("ema", None, 0.9), ("check_val_every_n_epoch", 1, 5)],
)
def test_a_setting_that_came_later_counts_where_it_is_not_the_usual_one(composed, name, usual, other):
    resolved = check(composed("model=lenet", "trainer.max_epochs=5"))
    assert resolved["trainer"].pop(name) == usual
    for value, same in ((usual, True), (other, False)):
        named = run_id(resolved | {"trainer": resolved["trainer"] | {name: value}})
        assert (named == run_id(resolved)) == same


def test_a_size_of_training_images_counts_where_it_is_one_of_its_own():
    data = CONFIG["data"] | {"image_size": 32}
    assert run_id(CONFIG | {"data": data | {"train_image_size": 32}}) == run_id(CONFIG | {"data": data})
    assert run_id(CONFIG | {"data": data | {"train_image_size": 24}}) != run_id(CONFIG | {"data": data})


def test_a_setting_of_the_network_counts_whatever_its_name():
    models = [{"name": "lenet", "net": {"download": n}} for n in (1, 2)]
    assert run_id(CONFIG | {"model": models[0]}) != run_id(CONFIG | {"model": models[1]})


def test_where_the_images_lie_does_not_change_the_name():
    moved = {"name": "digits", "source": {"_target_": "x", "root": "/elsewhere", "download": False}, "device": "cpu"}
    cached = {"normalize": {"_target_": "z", "cache_dir": "/c"}}
    assert run_id(CONFIG | {"data": moved, "augment": cached}) == run_id(CONFIG)


def test_the_protocol_tells_how_many_validation_images_are_drawn():
    settings = [{"data": {"protocol": "official", "val_size": size}} for size in (5000, 0, None)]
    assert [protocol(config) for config in settings] == ["official-val5000", "official-val0", "official"]


def test_other_images_in_a_folder_are_another_protocol():
    data = [{"protocol": "own", "val_size": None, "content": content} for content in ("0a1b2c3d4e", "ffffff0000")]
    assert [protocol({"data": one}) for one in data] == ["own-0a1b2c", "own-ffffff"]


@pytest.mark.parametrize("name", ["../../x", "", ".", "a/b"])
def test_a_record_whose_name_would_lead_elsewhere_is_refused(make_record, name):
    with pytest.raises(ValueError, match="is not a valid run id"):
        RunRecord.from_json(make_record(run_id=name).to_json())


@pytest.mark.parametrize("change", [{"seed": 4}, {"model": {"name": "lenet", "net": {"pool": "average"}}}])
def test_what_decides_a_result_changes_the_name(change):
    assert run_id(CONFIG | change) != run_id(CONFIG)


def test_the_order_of_augmentations_changes_the_name():
    one, other = {"crop": {"size": 32}, "flip": {"p": 0.5}}, {"flip": {"p": 0.5}, "crop": {"size": 32}}
    assert run_id(CONFIG | {"augment": one}) != run_id(CONFIG | {"augment": other})


def test_the_order_of_augmentations_survives_json(make_record):
    augment = {"flip": {"p": 0.5}, "crop": {"size": 32}}
    record = RunRecord.from_json(make_record(config=CONFIG | {"augment": augment}).to_json())
    assert run_id(record.config) == run_id(CONFIG | {"augment": augment})


def test_the_order_of_settings_does_not_change_the_name():
    assert run_id(dict(reversed(CONFIG.items()))) == run_id(CONFIG)


def test_a_slash_in_a_model_name_cannot_make_a_folder():
    assert "/" not in run_id(CONFIG | {"model": {"name": "timm/resnet18"}})


def test_identity_keeps_the_configuration_untouched():
    before = json.dumps(CONFIG)
    identity(CONFIG)
    assert json.dumps(CONFIG) == before
