"""The leaderboard: which records make a row, in which order, and what predictions add."""

import csv
import io
import statistics

import numpy as np
import pytest
from common import printed

from bench.reporting import leaderboard, render, stats
from bench.reporting.predictions import Predictions


def test_seeds_are_grouped_with_mean_and_sample_deviation(make_record):
    tests = [0.90, 0.92, 0.97]
    (table,) = leaderboard.tables([make_record(seed=seed, test=test) for seed, test in enumerate(tests)])
    (row,) = table.rows
    assert (row.n, row.variant) == (3, "")
    assert row.stats["test_top1"].mean == pytest.approx(statistics.fmean(tests))
    assert row.stats["test_top1"].std == pytest.approx(statistics.stdev(tests))
    assert "93.0±3.6" in printed(table)


def names(make_record, *cells):
    """Of the rows, in their order, what figures call them; a cell is a network and its settings."""
    records = [
        make_record(
            model,
            val=0.9 - i / 100,
            config={"model": {"name": model}, "seed": 0} | config,
            run_id=f"digits-{model}-s0-{i:010d}",
        )
        for i, (model, config) in enumerate(cells)
    ]
    (table,) = leaderboard.tables(records)
    return [row.name for row in table.rows]


def test_figures_call_a_network_of_one_row_by_its_name_alone(make_record):
    fast, slow = {"optimizer": {"lr": 1}}, {"optimizer": {"lr": 2}}
    assert names(make_record, ("nin", fast), ("lenet", slow)) == ["nin", "lenet"]
    told = ["nin optimizer.lr=1", "nin optimizer.lr=2", "lenet"]
    assert names(make_record, ("nin", fast), ("nin", slow), ("lenet", slow)) == told


def test_figures_tell_of_a_network_that_it_did_not_start_from_random_weights(make_record):
    tuned = {"name": "vgg16", "pretrained": "imagenet"}
    lenet = ("lenet", {"optimizer": {"lr": 1}})
    cells = ("vgg16", {"model": tuned, "optimizer": {"lr": 2}, "trainer": {"max_epochs": 5}}), lenet
    assert names(make_record, *cells) == ["vgg16 model.pretrained=imagenet", "lenet"]
    cells = lenet, ("vgg16", {"model": tuned | {"freeze": "backbone"}})
    assert names(make_record, *cells) == ["lenet", "vgg16 #2"]


@pytest.mark.parametrize(("length", "told"), [(leaderboard.ROOM, True), (leaderboard.ROOM + 1, False)])
def test_figures_call_rows_with_long_settings_by_their_number(make_record, length, told):
    of = "optimizer.name="
    values = [letter * (length - len(of)) for letter in "ab"]
    expected = [f"nin {of}{value}" for value in values] if told else ["nin #1", "nin #2"]
    assert names(make_record, *(("nin", {"optimizer": {"name": value}}) for value in values)) == expected


def test_rows_of_one_rank_have_names_of_their_own(make_record):
    long = [{"model": {"name": "nin"}, "seed": 0, "optimizer": {"some_setting": f"{'x' * 40}{i}"}} for i in (1, 2)]
    records = [make_record("nin", config=one, run_id=f"digits-nin-s0-{i:010d}") for i, one in enumerate(long)]
    (table,) = leaderboard.tables(records)
    assert [(row.rank, row.name) for row in table.rows] == [(1, "nin #1a"), (1, "nin #1b")]


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


def test_a_seed_counts_once(make_record):
    def record(seed, name, **settings):
        config = {"model": {"name": "lenet"}, "data": {}, "seed": seed} | settings
        return make_record(seed=seed, config=config, run_id=f"digits-lenet-s{seed}-{name:010d}", precision="32-true")

    same = [{"trainer": {"max_epochs": 2}}, {"trainer": {"max_epochs": 2}, "data": {"epochs": 2}}]
    (table,) = leaderboard.tables([record(seed, i, **one) for i, one in enumerate(same) for seed in (0, 1)])
    (row,) = table.rows
    assert (row.n, row.variant, len(set(row.run_ids))) == (2, "", 2)
    asked = [record(0, i, trainer={"precision": precision}) for i, precision in enumerate(("auto", "32-true"))]
    (table,) = leaderboard.tables(asked)  # auto came to the same
    assert [(row.n, row.variant) for row in table.rows] == [(1, "")]


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_cells_that_are_not_ok_are_left_out(make_record, status):
    assert leaderboard.tables([make_record(status=status, metrics={})]) == []


def test_seeds_that_failed_and_images_that_were_left_out_are_told(make_record):
    def config(seed, **trainer):
        return {"model": {"name": "lenet"}, "seed": seed, "trainer": {"check_val_every_n_epoch": 1, **trainer}}

    records = [make_record("lenet", s, config=config(s), val_size=9, precision="32-true") for s in (0, 1)]
    records += [
        make_record("lenet", seed, config=config(seed), status="failed", metrics={}) for seed in (1, 2, 3)
    ]  # 1 was run again
    records += [make_record("lenet", 4, config=config(4), status="interrupted", metrics={})]
    records += [make_record("lenet", 5, config=config(5) | {"augment": {"normalize": None}}, status="failed")]
    records += [make_record("lenet", 0, config=config(0, precision="bf16-mixed"), val=0.7, precision="bf16-mixed")]
    records += [make_record("lenet", 6, config=config(6, precision="bf16-mixed"), status="failed", metrics={})]
    records += [make_record("nin", val=0.5, skipped_images=1200)]
    records += [make_record("nin", 1, val=None, status="failed", dataset="cifar10", metrics={})]
    (table,) = leaderboard.tables(records)
    assert table.notes == (
        "row 1: 2 of 4 seeds failed",
        "row 2: 1 of 2 seeds failed",
        "row 3: 1,200 images cannot be read, and are left out",
    )
    assert "; row 1: 2 of 4 seeds failed; row 2: 1 of 2 seeds failed; row 3: 1,200 images" in render.caption(table)


def answered(record, accuracy, n=400, seed=0):
    """Predictions of a record with about that accuracy on samples that all share."""
    labels = np.random.default_rng(0).integers(0, 10, n)
    right = np.random.default_rng([seed, record.seed]).random(n) < accuracy
    predicted = np.where(right, labels, (labels + 1) % 10)
    logits = np.eye(10, dtype=np.float32)[predicted]
    return Predictions(logits, predicted, labels, np.arange(n).astype(str), np.arange(10).astype(str))


def test_rows_that_cannot_be_told_from_the_first_are_marked(make_record):
    wanted = {"nin": (0.93, 0.90), "vgg16": (0.92, 0.89), "lenet": (0.8, 0.6)}  # validation, test
    records = [make_record(model, seed, val=val) for model, (val, _) in wanted.items() for seed in range(2)]
    predictions = {
        record.run_id: answered(record, wanted[record.model][1], seed=len(record.model)) for record in records
    }
    (table,) = leaderboard.tables(records, predictions)
    first, second, third = table.rows
    assert (first.p, first.like_best) == (None, False)
    correct = [np.stack([predictions[name].correct for name in row.run_ids]) for row in table.rows]
    p_values = stats.holm([stats.compare(correct[0], correct[1]), stats.compare(correct[0], correct[2])])
    assert [second.p, third.p] == p_values
    assert (second.like_best, third.like_best) == (True, False)
    assert first.interval == stats.interval(correct[0])
    assert "vgg16 ≈" in printed(table)
    assert "lenet ≈" not in printed(table)
    assert f"{100 * first.interval.low:.1f}–{100 * first.interval.high:.1f}" in printed(table)
    assert "not distinguishable" in render.section(table)
    (row,) = (row for row in csv.DictReader(io.StringIO(render.to_csv([table]))) if row["model"] == "lenet")
    assert float(row["p_like_first"]) == third.p
    assert float(row["test_top1_low"]) == third.interval.low


def test_rows_that_test_images_ranked_are_corrected_for_all_pairs(make_record):
    records = [
        make_record(model, val=None, test=test) for model, test in (("nin", 0.9), ("vgg16", 0.87), ("lenet", 0.6))
    ]
    predictions = {
        record.run_id: answered(record, record.metrics["test"]["top1"], seed=i) for i, record in enumerate(records)
    }
    (table,) = leaderboard.tables(records, predictions)
    first, *others = (predictions[row.run_ids[0]].correct[None] for row in table.rows)
    assert [row.p for row in table.rows[1:]] == stats.holm([stats.compare(first, one) for one in others], tests=3)


def test_numbers_that_are_written_differently_make_one_row(make_record):
    written = [
        {"dropout": 0, "clip": [1, 0.5]},
        {"dropout": 0.0, "clip": [1.0, 0.5]},
        {"dropout": 0.5, "clip": [1, 0.5]},
    ]
    records = [
        make_record(seed=seed, config={"model": {"name": "lenet", "net": net}, "seed": seed}, val=0.9 - seed / 10)
        for seed, net in enumerate(written)
    ]
    (table,) = leaderboard.tables(records)
    assert [(row.n, row.variant) for row in table.rows] == [(2, "model.net.dropout=0"), (1, "model.net.dropout=0.5")]


def test_predictions_on_other_samples_are_not_compared(make_record):
    one, other = make_record("nin", val=0.9), make_record("lenet", val=0.8)
    (table,) = leaderboard.tables(
        [one, other], {one.run_id: answered(one, 0.9), other.run_id: answered(other, 0.9, 50)}
    )
    assert table.rows[1].p is None
    assert table.rows[1].interval is not None
    assert table.notes == ("row 2 is not compared with the first: predictions are missing or of other images",)
    assert table.notes[0] in render.caption(table)


def test_without_the_first_rows_predictions_no_row_is_compared_and_that_is_told(make_record):
    records = [make_record("nin", val=0.9), make_record("lenet", val=0.8), make_record("vgg16", val=0.7)]
    (table,) = leaderboard.tables(records, {one.run_id: answered(one, 0.9) for one in records[1:]})
    assert table.notes == ("rows 2, 3 are not compared with the first: predictions are missing or of other images",)
    (table,) = leaderboard.tables(records, {one.run_id: answered(one, 0.9) for one in records})
    assert table.notes == leaderboard.tables(records)[0].notes == ()


def of_classes(right, sizes):
    """Predictions of classes with so many samples each, of which so many are right; the last class has none."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    correct = np.concatenate([np.arange(size) < known for known, size in zip(right, sizes, strict=True)])
    predicted = np.where(correct, labels, (labels + 1) % len(sizes))
    logits = np.eye(len(sizes) + 1, dtype=np.float32)[predicted]
    return Predictions(logits, predicted, labels, np.arange(len(labels)).astype(str), np.arange(len(sizes) + 1))


def test_of_classes_that_differ_in_size_the_mean_over_classes_is_told(make_record):
    records = [make_record("nin", 0, val=0.9), make_record("nin", 1, val=0.9), make_record("lenet", val=0.8)]
    told = [of_classes([10, 10], [10, 40]), of_classes([5, 40], [10, 40]), of_classes([10, 36], [10, 40])]
    predictions = {record.run_id: one for record, one in zip(records, told, strict=True)}
    (table,) = leaderboard.tables(records, predictions)
    assert [row.stats["test_class_mean"].mean for row in table.rows] == pytest.approx([(0.625 + 0.75) / 2, 0.95])
    heading, _, first, second = (
        [cell.strip() for cell in line.split("|")] for line in render.section(table).splitlines()[2:6]
    )
    place = heading.index("test class mean")
    assert (heading[place - 1], first[place], second[place]) == ("95 % interval", "68.8±8.8", "95.0")
    assert "class" not in printed(table)  # it would not fit
    line, _ = csv.DictReader(io.StringIO(render.to_csv([table])))
    assert float(line["test_class_mean"]) == pytest.approx(0.6875)
    assert [row.model for row in leaderboard.in_order(table, "test_class_mean").rows] == ["lenet", "nin"]


@pytest.mark.parametrize("sizes", [[20, 20, 20], [10, 40, 10]])
def test_without_such_classes_or_without_all_predictions_it_is_not(make_record, sizes):
    records = [make_record("nin", seed) for seed in (0, 1)]
    told = {records[0].run_id: of_classes([5, 5, 5], sizes)}
    if sizes[0] == sizes[1]:
        told[records[1].run_id] = told[records[0].run_id]
    (table,) = leaderboard.tables(records, told)
    assert "test_class_mean" not in table.rows[0].stats
    assert "class mean" not in render.section(table)
    (line,) = csv.DictReader(io.StringIO(render.to_csv([table])))
    assert line["test_class_mean"] == ""


def test_rows_are_sorted_by_a_key_and_keep_their_ranks(make_record):
    records = [make_record("nin", val=0.9, params=3), make_record("lenet", val=0.8, params=None),
               make_record("vgg16", val=0.7, params=1, test=0.99)]  # fmt: skip
    (table,) = leaderboard.tables(records)
    for key, models in (
        ("rank", "nin lenet vgg16"), ("params", "vgg16 nin lenet"), ("model", "lenet nin vgg16"),
        ("test_top1", "vgg16 nin lenet"),
    ):  # fmt: skip
        ordered = leaderboard.in_order(table, key)
        assert [row.model for row in ordered.rows] == models.split(), key
        assert {row.model: row.rank for row in ordered.rows} == {"nin": 1, "lenet": 2, "vgg16": 3}
    for key in leaderboard.SORT_KEYS:
        assert len(leaderboard.in_order(table, key).rows) == 3
