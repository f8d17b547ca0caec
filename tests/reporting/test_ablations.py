"""Ablations: which rows differ in one choice, and what it buys."""

import itertools
from dataclasses import replace

import pytest
from cells import ablated, cell

from bench.config import resolved
from bench.reporting import ablations, leaderboard, render


def test_pairs_are_such_as_differ_in_one_thing():
    records = ablated()
    (table,) = leaderboard.tables(records)
    found = {
        (pair.what, *(row.run_ids[0].split("-s0")[0] for row in pair[1:])) for pair in ablations.pairs(table, records)
    }
    assert found == {
        ("batch norm, optimizer.lr=0.01 → 0.1", "digits-nin", "digits-nin_bn"),
        ("batch norm, optimizer.lr=0.01 → 0.1", "digits-googlenet", "digits-googlenet_bn"),
        ("auxiliary heads", "digits-googlenet-off", "digits-googlenet"),
    }


def test_another_recipe_makes_no_pair():
    records = [cell("nin", 0, 0.8), cell("nin_bn", 0, 0.9, loss={"aux_weight": 0.1})]
    (table,) = leaderboard.tables(records)
    assert ablations.pairs(table, records) == []
    assert ablations.effects(table, records, {}) == []


def test_what_differs_in_more_than_batch_norm_is_no_pair():
    rates = {"adamw": 1e-3, "sgd": 0.1}
    plain, normed = {"batch_norm": False}, {"batch_norm": True}

    def paired(one: dict, other: dict) -> list[str]:
        records = [
            replace(made, config=made.config | settings)
            for made, settings in ((cell("nin", 0, 0.8), one), (cell("nin_bn", 0, 0.9), other))
        ]
        (table,) = leaderboard.tables(records)
        return [pair.what for pair in ablations.pairs(table, records)]

    def both(net: dict, lr: float, rates: dict = rates) -> dict:
        return {"model": {"net": net, "lr": rates}, "optimizer": {"_target_": "torch.optim.SGD", "lr": lr}}

    each_its_own = paired(both(plain, 0.02, rates | {"sgd": 0.02}), both(normed, 0.1))
    assert each_its_own == ["batch norm, optimizer.lr=0.02 → 0.1"]
    the_same_but_not_its_own = paired(both(plain, 0.1, rates | {"sgd": 0.02}), both(normed, 0.1))
    assert the_same_but_not_its_own == ["batch norm"]
    of_another_optimizer = paired(both(plain, 1e-3), both(normed, 0.1))
    assert of_another_optimizer == []
    assert paired(both(plain, 0.01), both(normed, 0.01)) == ["batch norm"]
    assert paired(both(plain, 0.01), both(normed, 0.02)) == []
    assert paired(both(plain | {"naive": True}, 0.1), both(normed | {"naive": False}, 0.1)) == []


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ({"crop": 2, "flip": 0}, {"crop": 2, "mirror": 0}, "augment: flip → mirror"),
        ({"crop": 2}, {"crop": 2, "flip": 0}, "augment: without flip → with"),
        ({"crop": 2, "flip": 0}, {"crop": 2}, "augment: with flip → without"),
        ({"crop": 2, "flip": 0}, {"flip": 0, "crop": 2}, "augment=[crop,flip] → [flip,crop]"),
        ({"crop": 2}, {"crop": 4}, "augment.crop.padding=2 → 4"),
        ({"crop": 2, "flip": 0}, {"crop": 4, "mirror": 0}, None),
        ({}, {"crop": 2, "flip": 0}, None),
    ],
)
def test_changes_of_augmentations_that_are_one_choice(make_record, before, after, what):
    records = []
    for i, augment in enumerate((before, after)):
        told = {name: {"padding": padding} for name, padding in augment.items()}
        config = {"model": {"name": "nin"}, "seed": 0, "augment": told}
        records.append(make_record("nin", val=0.8 + 0.1 * i, config=config, run_id=f"digits-nin-s0-{i:010d}"))
    (table,) = leaderboard.tables(records)
    assert [pair.what for pair in ablations.pairs(table, records)] == ([] if what is None else [what])


def test_a_size_of_training_images_is_one_choice(make_record):
    records = []
    for i, side in enumerate((32, 24)):
        config = {"model": {"name": "nin"}, "seed": 0, "augment": {"crop": {"size": side}}}
        config["data"] = {"image_size": 32} | ({"train_image_size": side} if side != 32 else {})
        records.append(make_record("nin", val=0.8 + 0.1 * i, config=config, run_id=f"digits-nin-s0-{i:010d}"))
    (table,) = leaderboard.tables(records)
    assert [row.variant for row in table.rows] == ["data.train_image_size=24", "data.train_image_size=32"]
    assert [pair.what for pair in ablations.pairs(table, records)] == ["data.train_image_size=32 → 24"]


def test_a_size_of_images_is_one_choice_and_so_is_a_normalisation(composed, make_record):
    def told(before, after, *both):
        records = []
        for i, override in enumerate((before, after)):
            made = resolved(composed("model=lenet", override, *both))
            records.append(make_record("lenet", val=0.8 + 0.1 * i, config=made, run_id=f"digits-lenet-s0-{i:010d}"))
        (table,) = leaderboard.tables(records)
        return [row.variant for row in table.rows], [pair.what for pair in ablations.pairs(table, records)]

    rows, pairs = told("data.image_size=28", "data.image_size=32")
    assert rows == ["data.image_size=32", "data.image_size=28"]
    assert pairs == ["data.image_size=28 → 32"]
    _, pairs = told("data.decode_size=32", "data.decode_size=36")
    assert pairs == ["data.decode_size=32 → 36"]
    rows, pairs = told("data.image_size=24", "data.image_size=32", "data.decode_size=32")  # crops of the same images
    assert rows == ["data.image_size=32", "data.image_size=24"]
    assert pairs == ["data.image_size=24 → 32"]
    for names in itertools.combinations(("channel", "pixel_mean", "zca"), 2):
        _, pairs = told(*(f"augment/normalize={name}" for name in names))
        assert len(pairs) == 1
        assert pairs[0].startswith("augment/normalize=")


def test_a_single_choice_is_told_beside_the_best_row_that_differs_in_it(make_record):
    def record(val, **changes):
        optimizer = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
        config = {"model": {"name": "nin"}, "seed": 0, "optimizer": optimizer, "augment": {"flip": {"p": 0.5}}}
        name = f"digits-nin-s0-{round(100 * val):010d}"
        return make_record("nin", val=val, config=config | changes, run_id=name)

    adam = {"_target_": "torch.optim.AdamW", "lr": 0.01, "betas": [0.9, 0.95]}
    records = [
        record(0.9),
        record(0.8, optimizer=adam),
        record(0.7, augment={}),
        record(0.6, loss={"label_smoothing": 0.1}),
        record(0.5, augment={}, optimizer=adam),  # two choices from the first, one from the second and the third
    ]
    (table,) = leaderboard.tables(records)
    assert [(pair.what, pair.without.rank, pair.with_it.rank) for pair in ablations.pairs(table, records)] == [
        ("optimizer=adamw → sgd", 2, 1),
        ("augment: without flip → with", 3, 1),
        ("loss.label_smoothing=0.1 → null", 4, 1),
        ("augment: without flip → with", 5, 2),
    ]
    text = render.effects_section(table, ablations.effects(table, records, {}))
    assert "best row of its network, by validation top-1," in text
    assert render.CHOSEN_ON_TEST not in text
    by_test = render.effects_section(replace(table, ranked_by="test_top1"), ablations.effects(table, records, {}))
    assert "best row of its network, by test top-1," in by_test
    assert render.CHOSEN_ON_TEST in by_test
    assert "| nin | optimizer=adamw → sgd | 1 | 80.0 | 80.0 | +0.0 | – | – |" in text
