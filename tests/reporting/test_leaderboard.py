import csv
import io
import statistics

import pytest
from rich.console import Console

from bench.reporting import leaderboard


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(leaderboard.to_rich(table))
    return console.file.getvalue()


def test_seeds_are_grouped_with_mean_and_sample_deviation(make_record):
    tests = [0.90, 0.92, 0.97]
    (table,) = leaderboard.tables([make_record(seed=seed, test=test) for seed, test in enumerate(tests)])
    (row,) = table.rows
    assert (row.n, row.variant) == (3, "")
    assert row.stats["test_top1"].mean == pytest.approx(statistics.fmean(tests))
    assert row.stats["test_top1"].std == pytest.approx(statistics.stdev(tests))
    assert "93.0±3.6" in printed(table)


def test_one_seed_has_no_deviation(make_record):
    (table,) = leaderboard.tables([make_record(test=0.9)])
    assert table.rows[0].stats["test_top1"].std is None
    assert "±" not in printed(table)


def test_rows_are_ranked_by_validation_and_not_by_test(make_record):
    records = [make_record("nin", val=0.8, test=0.99), make_record("lenet", val=0.9, test=0.7)]
    (table,) = leaderboard.tables(records)
    assert [(row.rank, row.model) for row in table.rows] == [(1, "lenet"), (2, "nin")]
    assert "ranked by validation" in printed(table)


def test_equal_rows_share_a_rank(make_record):
    records = [make_record("nin", val=0.9), make_record("lenet", val=0.9), make_record("vgg16", val=0.8)]
    (table,) = leaderboard.tables(records)
    assert [(row.rank, row.model) for row in table.rows] == [(1, "lenet"), (1, "nin"), (3, "vgg16")]


def test_without_validation_the_ranking_says_that_it_is_by_test(make_record):
    (table,) = leaderboard.tables([make_record("nin", val=None, test=0.7), make_record("lenet", val=None, test=0.8)])
    assert [row.model for row in table.rows] == ["lenet", "nin"]
    assert "ranked by test" in printed(table)
    assert "–" in printed(table)


def test_protocols_and_data_sets_never_share_a_table(make_record):
    records = [make_record(), make_record(protocol="other"), make_record(dataset="cifar10")]
    assert [(table.dataset, table.protocol) for table in leaderboard.tables(records)] == [
        ("cifar10", "stratified"), ("digits", "other"), ("digits", "stratified"),
    ]  # fmt: skip


def test_configurations_of_one_model_are_told_apart_by_what_differs(make_record):
    def config(lr, seed):
        return {"model": {"name": "nin"}, "data": {"name": "digits"}, "seed": seed, "optimizer": {"lr": lr, "eps": 1}}

    records = [make_record("nin", seed, config=config(lr, seed)) for seed in (0, 1) for lr in (0.1, 0.2)]
    (table,) = leaderboard.tables(records)
    assert sorted((row.variant, row.n) for row in table.rows) == [("optimizer.lr=0.1", 2), ("optimizer.lr=0.2", 2)]


def test_pretrained_rows_are_marked_whatever_stands_beside_them(make_record):
    scratch = make_record("lenet", config={"model": {"name": "lenet"}, "seed": 0})
    probe = {"name": "vgg16", "pretrained": "imagenet", "freeze": "backbone"}
    records = [scratch, make_record("vgg16", config={"model": probe, "seed": 0})]
    for chosen in (records, records[1:]):
        (table,) = leaderboard.tables(chosen)
        variants = {row.model: row.variant for row in table.rows}
        assert variants["vgg16"] == "model.freeze=backbone model.pretrained=imagenet"
        assert variants.get("lenet", "") == ""


def test_the_terminal_shows_brackets(make_record):
    flipped = {"model": {"name": "lenet"}, "seed": 0, "augment": {"flip": {"p": 0.5}}}
    (table,) = leaderboard.tables([make_record(config=flipped), make_record(config=flipped | {"augment": {}})])
    assert "augment=[flip]" in printed(table, width=200)


def test_augmentations_are_told_as_they_are_asked_for(make_record):
    def config(*names, normalize="ChannelNormalize", length=16, side=32):
        known = {
            "crop": {"_target_": "x.RandomCrop", "size": side},
            "cutout": {"_target_": "x.Cutout", "length": length},
        }
        augment = {name: known[name] for name in names} | {"normalize": {"_target_": f"bench.x.{normalize}"}}
        model = {"name": "lenet", "net": {"_target_": "LeNet", "image_size": side}}
        return {"model": model, "data": {"image_size": side}, "augment": augment, "seed": 0}

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


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_cells_that_are_not_ok_are_left_out(make_record, status):
    assert leaderboard.tables([make_record(status=status, metrics={})]) == []


def test_the_table_fits_80_columns(make_record):
    records = [
        make_record("googlenet_bn", seed, val=0.9 + seed / 100, test=0.9 + seed / 50, params=143_667_240,
                    macs=19_632_000_000, train_images_per_s=12345.6, fit_seconds=86400, peak_memory_bytes=12 * 2**30)
        for seed in range(3)
    ]  # fmt: skip
    text = printed(leaderboard.tables(records)[0])
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("googlenet_bn", "91.0±1.0", "92.0±2.0", "144M", "19.6G", "12,346", "86,400", "12,288"):
        assert shown in text


def test_csv_holds_the_numbers_in_full(make_record):
    tables = leaderboard.tables([make_record(val=0.123456789, test=1 / 3), make_record("nin")])
    rows = list(csv.DictReader(io.StringIO(leaderboard.to_csv(tables))))
    lenet = next(row for row in rows if row["model"] == "lenet")
    assert float(lenet["test_top1"]) == 1 / 3
    assert float(lenet["val_top1"]) == 0.123456789
    assert (lenet["params"], lenet["n"], lenet["test_top1_std"]) == ("61706", "1", "")
    assert float(lenet["peak_memory_bytes"]) == 2**30


def test_markdown_has_a_section_and_a_full_row_for_each(make_record):
    text = leaderboard.to_markdown(leaderboard.tables([make_record(), make_record("nin")]))
    assert "## digits (stratified)" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {13}


def test_the_same_records_in_any_order_give_the_same_bytes(make_record):
    records = [make_record(model, seed) for model in ("nin", "lenet") for seed in range(3)]
    for render in (leaderboard.to_markdown, leaderboard.to_csv):
        assert render(leaderboard.tables(records)) == render(leaderboard.tables(records[::-1]))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (7, "7"),
        (999, "999"),
        (61706, "61.7k"),
        (416520, "417k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (6998552, "7M"),
        (15.47e9, "15.5G"),
    ],
)
def test_counts_are_shown_with_three_digits(value, shown):
    assert leaderboard.count(value) == shown
